"""Scalar grids: evenly spaced levels, one weight at a time.

    W^_ij = step (code - zero)        code = 0 .. 2^bits - 1        position of x = x / step + zero

Beyond the nearest level, such a grid knows where between its levels a weight lies, and its steps can be fitted again to
codes that are there. Rounders that need either (``stochastic``, ``comq``) ask for a ``ScalarCodebook``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Codebook, Quantizer, codebooks, in_units
from quip_engine.errors import fail


class ScalarQuantizer(Quantizer, ABC):
    """A grid of evenly spaced levels with one step for all rows or one per row, and per ``group`` columns."""

    block = 1

    def __init__(self, bits: int, step: Tensor, zero: Tensor, group: int) -> None:
        """step, zero: (1 or m, groups) float32, as they are read again when the layer is loaded."""
        self.bits, self.step, self.zero, self.group = bits, step, zero, group

    @property
    def top(self) -> int:
        return 2**self.bits - 1

    def grid(self, start: int) -> tuple[Tensor, Tensor]:
        """Step and zero: (1 or m, 1) of column ``start``."""
        k = start // self.group
        return self.step[:, k : k + 1], self.zero[:, k : k + 1]

    def position(self, x: Tensor, start: int) -> Tensor:
        """Where x: (m, g), columns of one group, lies among the codes: at k on level k, at real numbers elsewhere."""
        step, zero = self.grid(start)
        return in_units(x, step) + zero

    def code_below(self, position: Tensor) -> Tensor:
        """The last code: (m, g) uint8 at or below a position, or the nearest there is."""
        return position.floor().clamp_(0, self.top).to(torch.uint8)

    def value(self, code: Tensor, start: int) -> Tensor:
        """The weights: (m, g) of codes: (m, g), columns of one group."""
        step, zero = self.grid(start)
        return step * (code - zero)

    def round(self, x: Tensor, start: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
        code = self.code_below(self.position(x, start) + 0.5)
        return self.value(code, start), code

    def values(self, codes: Tensor) -> Tensor:
        """W^: (m, n) of all codes: (m, n)."""
        parts = codes.split(self.group, dim=1)
        return torch.cat([self.value(part, i * self.group) for i, part in enumerate(parts)], 1)

    @abstractmethod
    def set_step_(self, k: int, step: Tensor) -> None:
        """Replace the steps of group k by step: (1 or m, 1), or the nearest that can be stored."""


@dataclass(frozen=True)
class ScalarCodebook(Codebook, ABC):
    """A codebook whose quantizer is a ``ScalarQuantizer`` and whose codes are packed row by row."""

    bits: int

    @abstractmethod
    def quantizer(self, tensors: dict[str, Tensor], n: int) -> ScalarQuantizer:
        """That of stored tensors, for n columns."""


def need_scalar(codebook: Codebook, reason: str) -> None:
    """Refuse a codebook without evenly spaced levels, for a rounder that cannot do without them: ``reason``."""
    if not isinstance(codebook, ScalarCodebook):
        names = " or ".join(kind.name for kind in codebooks if issubclass(kind, ScalarCodebook))
        fail("BAD_RECIPE", reason=f"{reason}; {codebook.name} has none", remedy=f"codebook {names}, or rounding ldlq")
