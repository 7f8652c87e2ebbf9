"""A rounder chooses the codes of a matrix so that tr((W^ - W) H (W^ - W)^T) is small."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quip_engine.codebooks.base import Codebook, Quantizer
from quip_engine.parts import Part, Registry


@dataclass
class Rounded:
    """What a rounder returns: W^: (m, n), the codes of each column block, and what it had to do on the way."""

    weight: Tensor
    codes: list[Tensor]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rounder(Part, ABC):
    """Chooses codes. Pure: the same W, H, quantizer and generator state give the same bits."""

    @abstractmethod
    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        """Round W: (m, n) under H: (n, n); both transformed, float32. H is positive semidefinite and not damped.

        Both may be worked in; at the end they are what they were, as far as H was symmetric.
        """

    @property
    def revisits(self) -> bool:
        """Whether columns are judged by H again once all are rounded, which undoes feedback between outputs."""
        return False

    def check(self, codebook: Codebook) -> None:
        """Refuse, with ``BAD_RECIPE``, a codebook that this rounder cannot work with."""


rounders: Registry[Rounder] = Registry("rounding")
