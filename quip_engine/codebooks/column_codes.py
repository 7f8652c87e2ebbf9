"""What the states of the water-filled trellis stand for: codes for low, middle and high rates.

| R, bits  | code        | value of a state of rank K, of 16 bits: those of ``levels`` and zeros behind              |
|----------|-------------|-------------------------------------------------------------------------------------------|
| up to 3  | `levels`    | the one of 256 numbers of 8 bits that the upper bits of K count (``trellis_codes``)       |
| up to 5  | `companded` | the same, but finer at both ends, where errors would be largest: see below                |
| above    | `quantile`  | of ``trellis_codes``: as many values as states, for the few columns that need them|

The first two are computed in registers, from any state, and multiplied as integers. ``companded`` is, with
k = K - 2^15 and t = k within +-(2^15 - 2^10):

    level number  (t SLOPE / 2^15 + 8 (k - t)) / 2^8        rounded, then rounded down

so 192 levels share the middle, and 32 each 2^-6 of all ranks at either end. Its Gaussian distortion is that of
``quantile`` or less at L = 12, and at most 1 % more at L = 16 (2 % at 5 bits); that of ``levels`` is 1 to 9 % more at 4
bits and 2 to 30 % at 5.

Steps without bits have a second table: ``levels`` of another rank. Every table is of rms 1.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.codebooks.trellis_codes import (
    LARGEST_LEVEL,
    LEVEL_BITS,
    LEVEL_MULTIPLIERS,
    LEVEL_MULTIPLIERS_IDLE,
    code_table,
    gaussian_levels,
    level_numbers,
    level_ranks,
)

LEVELS_TO, COMPANDED_TO = 3, 5  # bits
RANK_BITS = 16
END, SLOPE, STEEP = 1 << 10, 25369, 3  # ranks at either end, 2^15 times the slope of the middle, log2 of that of an end


def code_of(rate: float) -> str:
    return "levels" if rate <= LEVELS_TO else "companded" if rate <= COMPANDED_TO else "quantile"


def tables(L: int, rate: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values of the states: (2^L,), for steps that take bits and for those that take none."""
    return _tables(L, code_of(rate), device)


@lru_cache
def _tables(L: int, code: str, device: torch.device) -> tuple[Tensor, Tensor]:
    return (whole_values(L, code) / unit(L, code)).to(device), (whole_values(L, "idle") / unit(L, "idle")).to(device)


def unit(L: int, code: str) -> float:
    """The rms of the values as they are defined."""
    return float(whole_values(L, code).double().square().mean().sqrt())


@lru_cache
def whole_values(L: int, code: str) -> Tensor:
    """Values of the states as they are defined: (2^L,) float32, whole numbers but for ``quantile``; ``idle`` too."""
    if code == "quantile":
        return code_table(code, L)[:, 0]
    if code == "companded":
        return companded_levels()[companded_numbers(level_ranks(L, *LEVEL_MULTIPLIERS) << RANK_BITS - L)].float()
    multipliers = LEVEL_MULTIPLIERS_IDLE if code == "idle" else LEVEL_MULTIPLIERS
    return gaussian_levels()[level_numbers(L, *multipliers)].float()


@lru_cache(maxsize=1)
def level_tables() -> Tensor:
    """Of ``levels`` and ``companded``: (2, 256) int8, the second in the order of signed bytes: from the middle on."""
    return torch.stack([gaussian_levels(), companded_levels().roll(2 ** (LEVEL_BITS - 1))])


def companded_numbers(K: Tensor) -> Tensor:
    """Numbers of levels, 0 to 255, of ranks of 16 bits."""
    k = K - 2 ** (RANK_BITS - 1)
    t = k.clamp(END - 2 ** (RANK_BITS - 1), 2 ** (RANK_BITS - 1) - END)
    return ((t * SLOPE + 2**14 >> 15) + (k - t << STEEP) >> RANK_BITS - LEVEL_BITS) + 2 ** (LEVEL_BITS - 1)


@lru_cache(maxsize=1)
def companded_levels() -> Tensor:
    """Means of the parts of the standard normal distribution that numbers stand for: (256,) int8, the largest 127."""
    counts = companded_numbers(torch.arange(2**RANK_BITS)).bincount(minlength=2**LEVEL_BITS)
    edges = torch.special.ndtri(torch.cat([counts.new_zeros(1), counts.cumsum(0)]).double() / 2**RANK_BITS)
    means = -(-edges.square() / 2).exp().diff() / counts
    return (means * (LARGEST_LEVEL / means.abs().max())).round().to(torch.int8)
