"""Side information of the water-filled trellis: how the rates R_i and the scales s_i and r are stored.

    R_i = code / 8 of a group of columns, code / 4 of a single one
    s_i = base 2^(-code / 16) of a group, base 2^(-code / 4) of a single column
    r   = 2^(-code / 8)

Scales are powers: a step is the same part of a small scale as of a large one, and a few bits span all there are.
``column_trellis`` tells what the symbols stand for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.packing import pack_bits, unpack_bits

ROW_BITS, ROW_STEP = 6, 1 / 8  # of a row's scale: its bits, and its step in octaves


@dataclass(frozen=True)
class SideInformation:
    """How the rate and the scale of a group of columns are stored."""

    rate_bits: int
    rate_step: float  # bits per weight
    scale_bits: int
    scale_step: float  # octaves

    def scale_code(self, z: Tensor, base: Tensor) -> int:
        """The stored scale nearest to the rms of z: (m, 1)."""
        rms = float(torch.linalg.vector_norm(z)) / len(z) ** 0.5
        octaves = math.log2(float(base) / max(rms, 1e-30)) if float(base) > 0 else 0.0
        return min(max(round(octaves / self.scale_step), 0), 2**self.scale_bits - 1)

    def scales(self, stored: Tensor, groups: int, base: Tensor) -> Tensor:
        """s of each group: (groups,)."""
        return base * 2 ** (-self.scale_step * unpack_bits(stored[None], self.scale_bits, groups)[0].float())


SHARED = SideInformation(6, 1 / 8, 8, 1 / 16)
SINGLE = SideInformation(5, 1 / 4, 5, 1 / 4)


def row_codes(W: Tensor) -> Tensor:
    """The stored scale of each row of W: (m, n), relative to the row of largest rms."""
    rms = torch.linalg.vector_norm(W, dim=1)
    octaves = (rms.max().clamp_min(1e-30) / rms.clamp_min(1e-30)).log2()
    return pack_bits((octaves / ROW_STEP).round().clamp(0, 2**ROW_BITS - 1).to(torch.uint8)[None], ROW_BITS)[0]


def row_scales(stored: Tensor, m: int) -> Tensor:
    """r: (m,)."""
    return 2 ** (-ROW_STEP * unpack_bits(stored[None], ROW_BITS, m)[0].float())
