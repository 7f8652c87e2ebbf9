"""How wide a grid should be: ranges are tried, and the one that loses least is kept.

A range that holds every weight has few levels where most weights are. Which narrower one is best depends on H: rounding
with feedback turns the errors of one column into a wider spread of the targets of the next. So a trial is a rounding
with feedback (LDLQ in the order that the codebook is commonly used with), whose loss is a sum of one term per weight,

    tr(E (H + ridge) E^T) = sum_ik D_k (W^_ik - target_ik)^2

so that each row and each group of columns can keep the range that was best for its own terms, all tried at once. Other
sources search |W^ - W|^p without H (OPTQ's programs, p = 2.4), which keeps ranges that are too wide at 2 bits.

Without feedback (nearest) the loss of a group of columns g is e_g H_gg e_g^T, exact where the group is the whole row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.scalar import ScalarQuantizer
from quip_engine.linalg.hessian import cholesky
from quip_engine.linalg.ldl import block_ldl_
from quip_engine.rounding.columns import block_order, buffers

DAMPING = 0.01  # as the rounders have it by default
NARROWEST = 0.5  # rms of the weights: the range of one bit is 0.8 at least, more bits and feedback need more
COARSE, FINE = 7, 3  # ranges tried in even ratios; then rounds that halve the ratio around the best


def search(
    make: Callable[[Tensor, Tensor], ScalarQuantizer],
    loss: Callable[[ScalarQuantizer], Tensor],
    widest: Tensor,
    narrowest: Tensor,
    zeros: list[Tensor],
) -> ScalarQuantizer:
    """The quantizer ``make(step, zero)`` of least ``loss``, for each row: (1 or m, groups) is the shape of all.

    ``widest`` and ``narrowest``: the steps to begin and end with; ``zeros``: the zeros tried with each. A trial changes
    all groups of a row alike; after some, each group gets what was best for it, where that together is better for the
    row. The first trial is the widest grid with ``zeros[0]``: no row ends with more than its loss.
    """
    rows = _Best(widest, zeros[0], torch.full_like(widest, torch.inf))

    def attempt(pairs: list[tuple[Tensor, Tensor]]) -> None:
        groups = _Best(rows.step, rows.zero, rows.loss)
        for step, zero in pairs:
            found = loss(make(step, zero))
            rows.take(found.sum(1, keepdim=True) < rows.loss.sum(1, keepdim=True), found, step, zero)
            groups.take(found < groups.loss, found, step, zero)
        if widest.shape[1] > 1:
            found = loss(make(groups.step, groups.zero))
            rows.take(found.sum(1, keepdim=True) < rows.loss.sum(1, keepdim=True), found, groups.step, groups.zero)

    ratio = (narrowest / widest.clamp_min(torch.finfo(torch.float32).tiny)).clamp(1e-3, 1) ** (1 / (COARSE - 1))
    attempt([(widest * ratio**i, zero) for i in range(COARSE) for zero in zeros])
    for _ in range(FINE):
        ratio = ratio.sqrt()
        attempt([(rows.step * ratio, rows.zero), (rows.step / ratio, rows.zero)])
    return make(rows.step, rows.zero)


@dataclass
class _Best:
    """The best so far: step, zero and loss, (1 or m, groups) each."""

    step: Tensor
    zero: Tensor
    loss: Tensor

    def take(self, better: Tensor, loss: Tensor, step: Tensor, zero: Tensor) -> None:
        self.step = torch.where(better, step, self.step)
        self.zero = torch.where(better, zero, self.zero)
        self.loss = torch.where(better, loss, self.loss)


class FeedbackLoss:
    """The loss of grids under LDLQ in an order (``columns.ORDERS``) for W: (m, n) and H: (n, n); factorized once."""

    def __init__(self, W: Tensor, H: Tensor, order: str) -> None:
        columns = block_order(H.diagonal(), 1, order)
        C, _ = cholesky(H, DAMPING, "the layer", columns=columns)
        self.L, D = block_ldl_(C, 1)
        self.D = torch.cat(D).flatten().tolist()
        self.columns = columns.tolist()
        self.W = W.T[columns].contiguous()

    def __call__(self, quantizer: ScalarQuantizer) -> Tensor:
        """The loss: (m, groups) of each row and group of columns."""
        n, m = self.W.shape
        losses = self.W.new_zeros(-(-n // quantizer.group), m)
        work = self.W.clone()
        for first, last in buffers(n, 1):
            error = self.W.new_empty(last - first, m)
            for k in reversed(range(first, last)):
                target = torch.addmv(work[k], error[k + 1 - first :].T, self.L[k + 1 : last, k])
                value = quantizer.round(target[:, None], self.columns[k])[0][:, 0]
                losses[self.columns[k] // quantizer.group] += self.D[k] * (value - target).square_()
                torch.sub(self.W[k], value, out=error[k - first])
            work[:first].addmm_(self.L[first:last, :first].T, error)
        return losses.T


class NearestLoss:
    """The loss of grids under rounding to nearest for W: (m, n) and H: (n, n)."""

    def __init__(self, W: Tensor, H: Tensor) -> None:
        self.W, self.H = W, H

    def __call__(self, quantizer: ScalarQuantizer) -> Tensor:
        """The loss: (m, groups) of each row and group of columns."""
        losses = []
        for start in range(0, len(self.H), quantizer.group):
            here = slice(start, start + quantizer.group)
            error = quantizer.round(self.W[:, here], start)[0] - self.W[:, here]
            losses.append(((error @ self.H[here, here]) * error).sum(1))
        return torch.stack(losses, 1)
