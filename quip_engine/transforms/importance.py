"""What errors of a layer's outputs cost the model: each by itself, or also what they do together.

    cost of the error E of W  =  tr(G E H E^T)          H = E[w x x^T],  G = E[g g^T] / mean_i E[g_i^2]

g is the gradient of the predictions' loss by the layer's output (``sensitivity``). Seen from a layer, the Hessian of
the model's KL is about G (x) H (Kronecker-factored, as in K-FAC, arXiv 1503.05671, and YAQA, arXiv 2505.22988). Most
methods know H alone (G = 1); the diagonal h of G tells how much each output counts; the rest of G which errors of
different outputs make each other good.

In layers that have more outputs than inputs, which open an MLP, G is nearly diagonal, and it is largest: feedback
between outputs gains 1 % of their loss, of that of others 11 to 23 %. So it is measured of the others only.

| text | here        |
|------|-------------|
| G, h | ``outputs`` |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.transforms.base import Keep, Maps

ROWS = 256  # of E at once


def is_narrow(m: int, n: int) -> bool:
    """Whether G of an m x n layer is measured where it is asked for, not h alone."""
    return m <= n


@dataclass(frozen=True)
class Importance:
    """h: (m,), positive, or G: (m, m), positive semidefinite; the mean of the (diagonal) entries is 1."""

    outputs: Tensor

    @property
    def together(self) -> bool:
        """Whether it is known what errors of different outputs do together."""
        return self.outputs.ndim == 2

    @property
    def each(self) -> Tensor:
        """h: (m,)."""
        return self.outputs.diagonal() if self.together else self.outputs

    def scaled(self, r: Tensor) -> Importance:
        """For errors in units of r: (m,)."""
        outputs = r[:, None] * self.outputs * r if self.together else self.outputs * r.square()
        return Importance(outputs / (outputs.diagonal() if self.together else outputs).mean())

    def behind(self, maps: Maps) -> Importance | None:
        """For errors of W~, in the basis of rounding; None where outputs are mixed and only h is known."""
        scaled = self if maps.output_scale is None else self.scaled(maps.output_scale)
        rotation = maps.output_rotation
        if isinstance(rotation, Keep):
            return scaled
        if not self.together:
            return None
        half = rotation.forward(scaled.outputs)
        return Importance(rotation.forward(half.T.contiguous()))

    def loss(self, E: Tensor, H: Tensor) -> float:
        """tr(G E H E^T) for E: (m, n), H: (n, n)."""
        total = 0.0
        for start in range(0, len(E), ROWS):
            here = slice(start, start + ROWS)
            weighed = self.outputs[here] @ E if self.together else self.outputs[here, None] * E[here]
            total += float(weighed.mul_(E[here] @ H).sum(dtype=torch.float64))
        return total
