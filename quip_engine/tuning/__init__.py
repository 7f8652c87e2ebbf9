"""Tuning: after the codes are chosen, what a packed model says is brought back to what the original says.

| stage          | trains                                                      | module           |
|----------------|-------------------------------------------------------------|------------------|
| ``end-to-end`` | floats of packed layers, norms, biases, embeddings and head | ``end_to_end``   |
| ``pv``         | these, and the codes                                        | ``pv``           |
"""
