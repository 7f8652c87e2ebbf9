"""Greedy coordinate descent: each column in turn gets its best level, all others staying as they are.

QuIP (arXiv 2307.13304), for W^ and H with the columns of largest diag H first:

    target_k = W^_k + ((W - W^) H)_k H_kk^-1        W^_k = round(target_k)

At first W^ is W itself, so the first pass is a rounding with feedback to the columns it has not yet visited; in later
passes every column sees the errors of all. The error runs along with every step, clipping included. (QuIP's own program
clips only after each pass, with an error that knows nothing of it.) The first pass takes every level as it comes, later
ones only what lowers the loss, and the descent ends with a pass that changes nothing.

Cost: one multiplication by H, m n^2, per pass. Memory: W and H permuted, and the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Quantizer
from quip_engine.parts import option
from quip_engine.rounding.base import Rounded, Rounder, rounders
from quip_engine.rounding.columns import blocks, buffers
from quip_engine.rounding.refine import refine_
from quip_engine.rounding.reordered import Reordered


@rounders.register("greedy")
@dataclass(frozen=True)
class Greedy(Rounder):
    """Coordinate descent from the unrounded weights, columns of largest diag H first (QuIP)."""

    passes: int = option(10, "times through all columns, at most", low=1, high=100)
    # No factorization needs it, but inputs that are always zero have no target without it.
    damping: float = option(0.01, "added to H, in parts of its mean diagonal", low=1e-4, high=1)

    @property
    def revisits(self) -> bool:
        return self.passes > 1

    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        ridge = self.damping * H.diagonal().mean()
        task = Reordered(W, H, quantizer, H.diagonal())
        rounded = task.given_back(_first_pass(task, ridge))
        return descend(rounded, W, H, quantizer, ridge=ridge, passes=self.passes - 1)


def descend(
    rounded: Rounded,
    W: Tensor,
    H: Tensor,
    quantizer: Quantizer,
    *,
    ridge: Tensor,
    passes: int,
    importance: Tensor | None = None,
) -> Rounded:
    """``rounded`` after passes of coordinate descent under H + ridge I, the columns of most ``importance``: (n,) first.

    By default that is diag H. No row ends with a larger loss than it had.
    """
    task = Reordered(W, H, quantizer, H.diagonal() if importance is None else importance)
    start = task.taken(rounded)
    weight = start.weight.T.contiguous()
    refine_(weight, start.codes, task.W, task.H, task, ridge=ridge, sweeps=passes, metric=True)
    return task.given_back(Rounded(weight.T, start.codes, rounded.notes))


def _first_pass(task: Reordered, ridge: Tensor) -> Rounded:
    """Every block rounded once, last to first, feeding back to it the errors of those rounded before."""
    W, H, g = task.W.T.contiguous(), task.H, task.block
    rounded, error, codes = W.clone(), torch.zeros_like(W), []
    diagonal = ridge * torch.eye(g, device=H.device)
    corners = {k: H[k : k + g, k : k + g] for k in range(0, len(H), g)}
    metrics = {k: corner + diagonal[: len(corner), : len(corner)] for k, corner in corners.items()}
    task.prepare(list(metrics.values()))
    for first, last in buffers(len(H), g):
        G = H[first:last, last:] @ error[last:]  # (W - W^) H of these columns
        for start, stop in blocks(first, last, g):
            target = W[start:stop] + torch.linalg.solve(metrics[start], G[start - first : stop - first])
            value, code = task.round(target.T, start, metrics[start])
            codes.append(code)
            rounded[start:stop] = value.T
            error[start:stop] = W[start:stop] - value.T
            G[: start - first].addmm_(H[first:start, start:stop], error[start:stop])
    return Rounded(rounded.T, codes[::-1])
