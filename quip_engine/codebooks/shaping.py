"""Noise shaping: errors of outputs made good by outputs that are rounded after them.

    cost of column j  =  D_j u^T G u,        u = W^_j - target_j,    G: (m, m), what errors of outputs do together

LDLQ does with H between columns what can be done with G within one (YAQA, arXiv 2505.22988, section 3): with
G = L D L^T, blocks of rows from last to first,

    target_k = x_k + sum_{j > k} (x_j - x^_j) L_jk        cost = sum_k |x^_k - target_k|^2_{D_k}

A trellis is searched along the rows, so the blocks are stretches of its sequences: SEGMENT steps of all of them side by
side. The search of a stretch looks AHEAD steps farther than it settles: how it ends decides how the next one begins.
What it sees there still lacks the feedback of the stretch itself, which is why long stretches lose less by it than
short ones gain. Within a block errors count by the diagonal of D_k.

| symbol | here                                                          |
|--------|---------------------------------------------------------------|
| L      | ``_L``: (S T, S T), rows in the order ``_order``, last first  |
| D_k    | ``weights``: (S, T), the diagonals                            |
| S, T   | sequences of a column, steps of a sequence                    |
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks.viterbi import Search
from quip_engine.codebooks.viterbi_torch import Span
from quip_engine.linalg.hessian import cholesky_
from quip_engine.linalg.ldl import block_ldl_
from quip_engine.transforms.importance import Importance

SEGMENT, AHEAD = 32, 64  # steps; of 16 to 64 each, what measured best on the layers of a small model
DAMPING = 0.005  # of G

Settle = Callable[[Tensor, int, int], Tensor]  # of targets: (S, T), steps from one to another -> values: (S, t)
Values = Callable[[Tensor, int], Tensor]  # of states: (S, t) from a step on -> what they stand for


class Shaping:
    """Feedback along the columns of a layer."""

    def __init__(self, importance: Importance, S: int, T: int) -> None:
        """``importance``: G of m rows; row s T + t is step t of sequence s, and those from m on do not count.

        Raises ``QUANT_UNSTABLE``.
        """
        G = importance.outputs
        m, n = len(G), S * T
        self.shape = (S, T)
        # The first stretch is the short one: a last block may be narrower than the others.
        edges = [0, *range(T - (T - 1) // SEGMENT * SEGMENT, T + 1, SEGMENT)]
        self._stretches = list(pairwise(edges))
        rows = torch.arange(n, device=G.device).view(S, T)
        self._order = torch.cat([rows[:, a:b].flatten() for a, b in self._stretches]).flip(0)
        whole = pad(G, (0, n - m, 0, n - m))
        whole.diagonal()[m:] = 1
        self._L = whole[self._order][:, self._order]
        cholesky_(self._L, DAMPING, "the layer")
        self._L, D = block_ldl_(self._L, S * SEGMENT)
        self.weights = self._rows(torch.cat([block.diagonal() for block in D]))
        self.weights.view(-1)[m:] = 0

    def path(self, search: Search, x: Tensor, values: Values, wrap: int) -> Tensor:
        """States: (S, T) for the targets x: (S, T), before feedback; ``wrap`` as in ``Search.wrap``."""
        T, found, bits = self.shape[1], [], search.trellis.steps
        closing = low = search.wrap(x[..., None], self.weights, wrap)

        def settle(targets: Tensor, first: int, end: int) -> Tensor:
            nonlocal low
            closes = sum(bits[end:]) >= search.trellis.L  # what is left can still lead to where the circle closes
            seen = min(end + AHEAD, T) if closes else T
            span = Span(first, seen - first, begin=low, end=closing if seen == T else None)
            path = search.stretch(targets[..., None], self.weights, span)
            found.append(path[:, : end - first])
            low = found[-1][:, -1] & search.overlap(end % T)
            return values(found[-1], first)

        self.run(x, settle)
        return torch.cat(found, 1)

    def run(self, x: Tensor, settle: Settle) -> None:
        """Settle the targets x: (S, T), one stretch after the other, each with the feedback of those before it."""
        S, T = self.shape
        aim = x.flatten()[self._order]
        fed = aim.clone()
        for first, end in self._stretches:
            here = slice(S * (T - end), S * (T - first))
            error = aim[here] - settle(self._rows(fed), first, end).flatten().flip(0)
            fed[: here.start] += error @ self._L[here, : here.start]

    def _rows(self, ordered: Tensor) -> Tensor:
        """(S, T) of numbers in the order of the blocks: (S T,)."""
        return torch.empty_like(ordered).index_copy_(0, self._order, ordered).view(self.shape)
