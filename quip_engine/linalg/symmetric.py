"""A symmetric matrix in half its room: what is on and below its diagonal.

    H = [ H[0:R, 0:R]   .  ]        panel k = H[kR:, kR : (k + 1)R]        R columns, from the diagonal down
        [ H[R:, 0:R]    .. ]

Whole panels are ordinary matrices, so that a product can be added to one as to H itself, for half the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

WIDTH = 256  # columns of a panel: wide enough for a good matrix product, little above the diagonal


class LowerHalf:
    """Of a symmetric matrix (n, n), float32."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        """All zeros."""
        self.n, self._starts = n, range(0, n, WIDTH)
        shapes = [(n - start, min(WIDTH, n - start)) for start in self._starts]
        sizes = [math.prod(shape) for shape in shapes]
        room = torch.zeros(sum(sizes), device=device)  # one piece, which goes back to the system as one
        self._panels = [part.view(shape) for part, shape in zip(room.split(sizes), shapes, strict=True)]

    @classmethod
    def of(cls, H: Tensor) -> LowerHalf:
        """A copy of the half of a symmetric H: (n, n)."""
        half = cls(len(H), H.device)
        for start, panel in half.panels():
            panel.copy_(H[start:, start : start + WIDTH])
        return half

    def panels(self) -> Iterator[tuple[int, Tensor]]:
        """The first column of each panel, and the panel: (n - first, up to WIDTH)."""
        return zip(self._starts, self._panels, strict=True)

    def write_(self, H: Tensor) -> Tensor:
        """Fill H: (n, n), exactly symmetric whatever float32 rounding left in the panels; returns it."""
        for start, panel in self.panels():
            here, after = slice(start, start + WIDTH), slice(start + WIDTH, None)
            corner, below = panel[:WIDTH], panel[WIDTH:]
            H[here, here] = corner / 2 + corner.T / 2
            H[after, here] = below
            H[here, after] = below.T
        return H
