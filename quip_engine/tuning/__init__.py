"""Tuning: what a packed model says is brought back to what the original says, while codes are chosen and afterwards.

| stage          | trains                                                      | module           |
|----------------|-------------------------------------------------------------|------------------|
| ``progressive`` | blocks that are not yet quantized, as a whole               | ``progressive``  |
| ``block``      | what is float in a block whose layers are being rounded     | ``block``        |
| ``end-to-end`` | floats of packed layers, norms, biases, embeddings and head | ``end_to_end``   |
| ``pv``         | these, and the codes                                        | ``pv``           |
"""
