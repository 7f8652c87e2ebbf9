"""Uniform scalar grids: one for the whole matrix (QuIP), or one per row or group (what round-to-nearest and OPTQ mean).

QuIP (arXiv 2307.13304, section 4), for weights that a transform has made alike::

    W~ = s (2 code / (2^bits - 1) - 1)          s = rho rms(W~)

Per row, and where asked per group of columns, OPTQ (arXiv 2210.17323), zero among the levels::

    W_ij = step_i (code - zero_i)               step_i = (max_i - min_i) / (2^bits - 1)

or without a zero of its own, levels alike on both sides (``symmetric``): zero_i = (2^bits - 1) / 2.

A target beyond the ends gets the end level, and a rounder with feedback sees that error like any other. (QuIP's own
program clips before it rounds, where no feedback can mend it.) Both ranges can be searched instead (``grid_range``).

| paper      | here                                                                           |
|------------|--------------------------------------------------------------------------------|
| rho        | option ``rho``                                                                 |
| s          | tensor ``scale``: (1,) float32                                                 |
| group size | option ``group``; tensor ``step``: (m, groups) float16, ``zero``: uint8        |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks.base import codebooks, root_mean_square
from quip_engine.codebooks.grid_range import NARROWEST, FeedbackLoss, NearestLoss, search
from quip_engine.codebooks.packing import pack_bits, packed_width, unpack_bits
from quip_engine.codebooks.scalar import ScalarCodebook, ScalarQuantizer
from quip_engine.parts import option
from quip_engine.transforms.base import TensorSpec

FLOAT16_RANGE = (2.0**-24, torch.finfo(torch.float16).max)
SAMPLE = 256  # rows that settle a range common to all rows


@codebooks.register("grid")
@dataclass(frozen=True)
class Grid(ScalarCodebook):
    """Evenly spaced levels, one scale for the whole matrix (QuIP)."""

    bits: int = option(2, "bits per weight", low=1, high=8)
    rho: float | str = option(
        2.4, "range of the levels, in rms of the weights; search: what loses least", low=0.1, high=20, words=("search",)
    )

    @property
    def code_bits(self) -> float:
        return self.bits

    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> ScalarQuantizer:
        if isinstance(self.rho, str):
            return self._searched(W[:: -(-len(W) // SAMPLE)], H)
        return GridQuantizer(self.bits, self.rho * root_mean_square(W), len(H))

    def _searched(self, W: Tensor, H: Tensor) -> ScalarQuantizer:
        half, loss = half_range(self.bits), FeedbackLoss(W, H, "natural")
        widest = W.abs().max().view(1, 1) / half
        return search(
            lambda step, _: GridQuantizer(self.bits, step.view(1) * half, len(H)),
            lambda quantizer: loss(quantizer).sum().view(1, 1),
            widest,
            NARROWEST * root_mean_square(W).view(1, 1) / half,
            [torch.full_like(widest, half)],
        )

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        return {
            "codes": TensorSpec((m, packed_width(n, self.bits)), torch.uint8),
            "scale": TensorSpec((1,), torch.float32),
        }

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        return self.quantizer(tensors, n).values(unpack_bits(tensors["codes"], self.bits, n))

    def quantizer(self, tensors: dict[str, Tensor], n: int) -> ScalarQuantizer:
        return GridQuantizer(self.bits, tensors["scale"], n)


class GridQuantizer(ScalarQuantizer):
    def __init__(self, bits: int, scale: Tensor, width: int) -> None:
        """scale s: (1,) float32; width: n."""
        self.scale = scale
        zero = torch.full((1, 1), half_range(bits), device=scale.device)
        super().__init__(bits, (scale / half_range(bits)).view(1, 1), zero, width)

    def set_step_(self, k: int, step: Tensor) -> None:
        self.scale = step.view(1) * half_range(self.bits)
        self.step = (self.scale / half_range(self.bits)).view(1, 1)

    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        return {"codes": pack_bits(torch.cat(codes, 1), self.bits), "scale": self.scale}


@codebooks.register("grid-row")
@dataclass(frozen=True)
class RowGrid(ScalarCodebook):
    """Evenly spaced levels of each row, or of each group of columns in it (nearest, OPTQ)."""

    bits: int = option(4, "bits per weight", low=1, high=8)
    group: int = option(0, "columns that share a step; 0: the whole row", low=0, high=4096)
    clip: str = option(
        "none",
        "range of the levels: all weights, or what loses least when rounded to nearest or with feedback",
        choices=("none", "nearest", "feedback"),
    )
    symmetric: bool = option(False, "levels alike on both sides of zero, and no zero stored")

    @property
    def code_bits(self) -> float:
        return self.bits

    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> ScalarQuantizer:
        parts = self._parts(W)
        low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)
        half = half_range(self.bits)
        step = as_stored((torch.maximum(-low, high) if self.symmetric else (high - low) / 2) / half)
        exact = torch.full_like(low, half) if self.symmetric else (-low / step).clamp(0, 2 * half)
        nearest = exact if self.symmetric else exact.round()
        if self.clip == "none":
            return self._quantizer(step, nearest, W.shape[1])
        zeros = [nearest] if self.symmetric else [nearest, exact.floor() + exact.ceil() - nearest]
        loss = FeedbackLoss(W, H, "largest-first") if self.clip == "feedback" else NearestLoss(W, H)
        narrowest = NARROWEST * parts.square().mean(2).sqrt() / half
        return search(lambda step, zero: self._quantizer(step, zero, W.shape[1]), loss, step, narrowest, zeros)

    def _parts(self, W: Tensor) -> Tensor:
        """W by groups of columns: (m, groups, g), the last filled up with zeros."""
        group = self.group or W.shape[1]
        return pad(W, (0, -W.shape[1] % group)).view(len(W), -1, group)

    def _quantizer(self, step: Tensor, zero: Tensor, n: int) -> ScalarQuantizer:
        return RowGridQuantizer(self.bits, as_stored(step), zero, self.group or n, self.symmetric)

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        shape = (m, -(-n // (self.group or n)))
        zero = {} if self.symmetric else {"zero": TensorSpec(shape, torch.uint8)}
        return {
            "codes": TensorSpec((m, packed_width(n, self.bits)), torch.uint8),
            "step": TensorSpec(shape, torch.float16),
        } | zero

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        return self.quantizer(tensors, n).values(unpack_bits(tensors["codes"], self.bits, n))

    def quantizer(self, tensors: dict[str, Tensor], n: int) -> ScalarQuantizer:
        step = tensors["step"].float()
        zero = torch.full_like(step, half_range(self.bits)) if self.symmetric else tensors["zero"].float()
        return self._quantizer(step, zero, n)


class RowGridQuantizer(ScalarQuantizer):
    def __init__(self, bits: int, step: Tensor, zero: Tensor, group: int, symmetric: bool) -> None:
        super().__init__(bits, step, zero, group)
        self.symmetric = symmetric

    def set_step_(self, k: int, step: Tensor) -> None:
        self.step[:, k : k + 1] = as_stored(step)

    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        zero = {} if self.symmetric else {"zero": self.zero.to(torch.uint8)}
        return {"codes": pack_bits(torch.cat(codes, 1), self.bits), "step": self.step.half()} | zero


def half_range(bits: int) -> float:
    """Steps from the middle of a grid to its ends."""
    return (2**bits - 1) / 2


def as_stored(step: Tensor) -> Tensor:
    """The nearest float16, as float32."""
    return step.clamp(*FLOAT16_RANGE).half().float()
