"""LDLQ-RG: LDLQ on columns sorted by diag H, and then greedy passes over what it found.

QuIP (arXiv 2307.13304). Columns of largest diag H are rounded first, so that the many others can still
mend their errors; the greedy passes let every column see the errors of all. No row ends with a larger loss than LDLQ
in that order left it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Quantizer
from quip_engine.parts import option
from quip_engine.rounding.base import Rounded, Rounder, rounders
from quip_engine.rounding.greedy import descend
from quip_engine.rounding.ldlq import LDLQ


@rounders.register("ldlq-rg")
@dataclass(frozen=True)
class ReorderedGreedyLDLQ(Rounder):
    """LDLQ with the columns of largest diag H first, then greedy passes (QuIP)."""

    damping: float = option(0.01, "added to H, in parts of its mean diagonal", low=1e-4, high=1)
    passes: int = option(10, "greedy passes, at most", low=0, high=100)

    @property
    def revisits(self) -> bool:
        return self.passes > 0

    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        rounded = LDLQ(damping=self.damping, order="largest-first").round(W, H, quantizer, generator)
        ridge = self.damping * H.diagonal().mean()
        return descend(rounded, W, H, quantizer, ridge=ridge, passes=self.passes)
