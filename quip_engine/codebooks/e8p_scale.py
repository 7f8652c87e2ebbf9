"""The scale of a lattice code that loses least on a layer: some are tried, each by rounding a sample of rows.

    loss(scale) = tr(E H E^T), E = W^ - W after LDLQ of the sample at this scale, with a few hypotheses per row

For weights that a transform has made alike, the scale of least Gaussian distortion is as good as any (measured: the
search changes the loss by less than 1 % either way). Weights that no transform made alike have more outliers, and
strongly correlated inputs spread the targets of LDLQ: there other scales lose up to half as much. H is factorized once.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from quip_engine.codebooks.branching import BranchingQuantizer
from quip_engine.linalg.proxy import proxy_loss
from quip_engine.rounding.beam import beam_ldlq
from quip_engine.rounding.ldlq import feedback

SAMPLE = 256  # rows
HYPOTHESES = 8  # a single one prefers scales that are up to 4 % worse with several
START = 1.03  # the best for a Gaussian
RATIO, ROUNDS = 1.16, 5  # two scales around the best so far in each, closer where it stays the best


def searched_scale(W: Tensor, H: Tensor, make: Callable[[float], BranchingQuantizer]) -> float:
    """The scale whose quantizer ``make(scale)`` loses least on W: (m, n) under H: (n, n)."""
    sample = W[:: -(-len(W) // SAMPLE)]
    factor = feedback(H, make(START).block, "largest-first")
    ordered = sample.T[factor.columns]
    in_layer = factor.columns.argsort()

    def loss(scale: float) -> float:
        rounded, _ = beam_ldlq(ordered, factor.L, factor.D, factor.place, make(scale), K=HYPOTHESES)
        return proxy_loss(sample, rounded[in_layer].T, H)

    tried = {START: loss(START)}
    ratio = RATIO
    for _ in range(ROUNDS):
        best = min(tried, key=tried.__getitem__)
        tried |= {scale: loss(scale) for scale in (best / ratio, best * ratio) if scale not in tried}
        if tried[best] == min(tried.values()):
            ratio **= 0.5
    return min(tried, key=tried.__getitem__)
