"""A codebook turns a few transformed weights into a code and back.

Life of one: ``fit`` looks at the whole transformed matrix and settles scales, outliers, tables; a rounder with feedback
tells what each block will weigh (``prepare``) and then calls ``round`` for ``block`` columns at a time, in any order
and as often as it likes; ``pack`` turns the codes into the bytes that are stored; ``decode`` turns those bytes into
weights and needs nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quip_engine.parts import Part, Registry
from quip_engine.transforms.base import TensorSpec
from quip_engine.transforms.importance import Importance


class Quantizer(ABC):
    """A codebook fitted to one matrix; in units of that matrix."""

    block: int  # columns rounded together
    rows: int = 1  # rows rounded together: the codes of a block have one entry for so many rows

    def prepare(self, D: list[Tensor]) -> None:  # noqa: B027 - may be left as it is
        """Hear, before the first ``round``, the metric D_k: (g, g) that each block's error will count with.

        For codebooks that give some blocks more bits than others; the rest need not listen.
        """

    def weigh(self, importance: Importance) -> None:  # noqa: B027 - may be left as it is
        """Hear, before ``prepare``, what errors of the rows cost.

        For codebooks that round several rows together; the rest need not listen.
        """

    @abstractmethod
    def round(self, x: Tensor, start: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Nearest codewords of x: (m, g), the columns ``start : start + g`` (g <= block; less only at the end).

        ``metric`` M: (g, g) asks for the smallest e M e^T instead of the Euclidean one; a quantizer that cannot do
        better than its Euclidean answer may ignore it. Returns the rounded x: (m, g) and its codes, integers, of shape
        (ceil(m / ``rows``), ...).
        """

    @abstractmethod
    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        """Stored tensors from the codes of all column blocks, first to last."""


@dataclass(frozen=True)
class Codebook(Part, ABC):
    """A finite set of points, its nearest-point search and its bytes."""

    block: ClassVar[int] = 1  # columns rounded together
    shapes: ClassVar[bool] = False  # whether errors of an output are made good by others, where that is known
    rates: ClassVar[tuple[float, ...]] = ()  # offered, where ``bits`` may be any number between, and counts all bytes

    @property
    @abstractmethod
    def code_bits(self) -> float:
        """Bits per weight of the codes alone, without scales or tables."""

    @abstractmethod
    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> Quantizer:
        """Settle scales for W: (m, n) under H: (n, n), both transformed, H not damped.

        ``spent``: bits the transform stores for this layer, for codebooks that meet a rate in which all is counted.
        """

    @abstractmethod
    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        """The tensors stored for an m x n layer, by name; ``spent`` as in ``fit``."""

    def quick(self) -> Codebook:
        """A form of this codebook that rounds faster and ranks transforms like it does."""
        return self

    @abstractmethod
    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        """W~: (m, n) float32 from stored tensors."""


def root_mean_square(W: Tensor) -> Tensor:
    """sqrt(mean of W_ij^2): (1,) float32, safe from overflow; zero for a zero matrix."""
    norm = torch.linalg.vector_norm(W, dtype=torch.float64)
    return (norm / W.numel() ** 0.5).float().reshape(1)


def in_units(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale; zero for a zero matrix, whose scale is zero."""
    return x / scale.clamp_min(torch.finfo(torch.float32).tiny)


codebooks: Registry[Codebook] = Registry("codebook")
