"""LDLQ that keeps several hypotheses per row (``codebooks/branching.py``: what a hypothesis is and how it is extended).

LDLQ fixes each block by its own term of the loss, though a codeword that is a little worse there may leave better
targets to all blocks that follow. Here that is found out before it is fixed.

Hypotheses differ in their last blocks only, so decisions lag by one buffer of columns: when a buffer is done, the one
before it is fixed as in the best hypothesis, and hypotheses that have it otherwise are dropped. Feedback to all columns
beyond is then that of one hypothesis, as in LDLQ.

| M-algorithm    | here                        |
|----------------|-----------------------------|
| M (paths kept) | ``K``, option ``beam``      |
| path metric    | ``loss`` of ``Beam``        |
| decision lag   | one buffer of columns       |
"""

from __future__ import annotations

import torch
from torch import Tensor

from quip_engine.codebooks.branching import BranchingQuantizer, Window
from quip_engine.rounding.columns import buffers

HYPOTHESES = 16384  # of all rows together: with two buffers of errors each, 16 MB


def beam_ldlq(
    W: Tensor, L: Tensor, D: list[Tensor], place: list[int], quantizer: BranchingQuantizer, *, K: int
) -> tuple[Tensor, list[Tensor]]:
    """W^ transposed: (n, m), and the codes of each block, for W transposed: (n, m), L: (n, n) and each D_k: (g, g).

    All have their blocks in the order of rounding, last to first; ``place`` is where they were in the layer.
    """
    starts = [at * quantizer.block for at in place]
    rounded = W.clone(memory_format=torch.contiguous_format)  # targets, and where they are decided, W^
    some = max(HYPOTHESES // K, 1)  # rows of the layer
    rows = zip(W.split(some, 1), rounded.split(some, 1), strict=True)
    codes = [_round_rows(*pair, L, D, quantizer, starts=starts, K=K) for pair in rows]
    return rounded, [torch.cat(block) for block in zip(*codes, strict=True)]


def _round_rows(
    W: Tensor, work: Tensor, L: Tensor, D: list[Tensor], quantizer: BranchingQuantizer, *, starts: list[int], K: int
) -> list[Tensor]:
    n, g = len(W), quantizer.block
    codes: list[Tensor] = []
    beam = quantizer.beam(W.shape[1], K, W.device)
    end = n  # the columns before it are not decided
    for first, last in buffers(n, g):
        blocks = slice(first // g, -(-last // g))
        beam.widen(last - first, blocks.stop - blocks.start)
        L_here = L[first:end, first:last].contiguous()
        W_here, target = W[first:last].contiguous(), work[first:last].contiguous()
        window = Window(W_here, target, L_here, D[blocks], starts[blocks])
        quantizer.extend_(beam, window)
        fixed = last if first else 0  # now they are decided from here on
        decided = beam.decide(fixed - first, -(-(fixed - first) // g))
        for k, code in zip(range(-(-fixed // g), -(-end // g)), decided, strict=True):
            work[k * g : min(k * g + g, n)] = quantizer.values(code, starts[k]).T[: n - k * g]
        codes = decided + codes
        work[:first].addmm_(L[fixed:end, :first].T, W[fixed:end] - work[fixed:end])
        end = fixed
    return codes
