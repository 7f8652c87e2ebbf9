"""The trellis of published QTIP models: code HYB with a table of the layer's own (arXiv 2406.11235, sections 3 and 4).

    W~ = s value(state)        value(x) = +-table[bits of x (x + 1)]: two weights        state: 16 bits of the tile's

It differs from ``trellis`` with ``hyb`` in two things. The table of 512 pairs is stored, because fine-tuning trains it
with each layer. And a path visits a tile not row by row but in the order in which the threads of a tensor core hold it:
with an element's row as bits r = (d0 d1) of 1 + 3 and its column as c = (d2 d3 d4) of 1 + 2 + 1 bits, step after step
goes through (d1, d3, d2, d0, d4), the last running fastest. d4 is within one step: its two weights are neighbours.

| paper        | here                                                         |
|--------------|--------------------------------------------------------------|
| L, V, Q      | ``L``, ``V``, 512 = 2^Q                                      |
| k            | option ``bits``                                              |
| tlut         | tensor ``table``: (512, 2) float16                           |
| codes        | tensor ``codes``: (ceil(m / 16), ceil(n / 16), 32 k) uint8   |
| Wscale       | tensor ``scale``: (1,) float32                               |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks.base import Codebook, Quantizer, codebooks, in_units, root_mean_square
from quip_engine.codebooks.bitstream import pack_string, packed_states, path_bits
from quip_engine.codebooks.trellis import CHUNK, LENGTH, TILE, WRAP, tiles
from quip_engine.codebooks.trellis_codes import HYBRID_BITS, hybrid_pairs, hybrid_values
from quip_engine.codebooks.viterbi import best_path
from quip_engine.parts import option
from quip_engine.transforms.base import TensorSpec

L = 16
V = 2
STEPS = LENGTH // V


@codebooks.register("trellis-hyb")
@dataclass(frozen=True)
class PublishedTrellis(Codebook):
    """Trellis paths with a table of each layer's own, in the order of tensor cores (QTIP, as published)."""

    block: ClassVar[int] = TILE
    bits: int = option(2, "bits per weight", low=1, high=4)
    scale: float = option(0.95, "rms of the weights in units of that of the table", low=0.1, high=10)

    @property
    def code_bits(self) -> float:
        return self.bits

    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> Quantizer:
        table = hybrid_pairs().half().to(W.device)
        units = root_mean_square(hybrid_values(table.float(), L))
        return PublishedTrellisQuantizer(self.bits, table, root_mean_square(W) / units / self.scale)

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        return {
            "codes": TensorSpec((tiles(m), tiles(n), LENGTH * self.bits // 8), torch.uint8),
            "table": TensorSpec((2**HYBRID_BITS, V), torch.float16),
            "scale": TensorSpec((1,), torch.float32),
        }

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        codes, steps = tensors["codes"], path_steps(self.bits, tensors["codes"].device)
        values = hybrid_values(tensors["table"].float(), L)
        W = torch.empty(len(codes) * TILE, codes.shape[1] * TILE, device=codes.device)
        by_tile = W.view(len(codes), TILE, -1, TILE).transpose(1, 2)
        rows = max(1, CHUNK // codes.shape[1])
        for part, into in zip(codes.split(rows), by_tile.split(rows), strict=True):
            states = packed_states(part.flatten(0, 1), steps, L)
            into.copy_(from_path(values.index_select(0, states.flatten())).view(into.shape))
        return W[:m, :n] * tensors["scale"]


class PublishedTrellisQuantizer(Quantizer):
    block = TILE
    rows = TILE

    def __init__(self, bits: int, table: Tensor, scale: Tensor) -> None:
        self.table, self.scale = table, scale
        self.steps = path_steps(bits, table.device)
        self.values = hybrid_values(table.float(), L)

    def round(self, x: Tensor, start: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, g = x.shape
        counts = torch.ones(g, device=x.device)
        if metric is not None:
            counts = in_units(metric.diagonal(), metric.diagonal().mean())
        weights = self._paths(counts.expand(m, g)).mean(2)
        states = best_path(
            self._paths(in_units(x, self.scale)), self.values, self.steps, weights=weights, wrap=WRAP // V
        )
        value = from_path(self.values[states]).reshape(-1, TILE)[:m, :g] * self.scale
        return value, pack_string(path_bits(states, self.steps))

    def _paths(self, x: Tensor) -> Tensor:
        """The tiles of x: (m, g), zero where they have no weights: (tiles, steps, V)."""
        return to_path(pad(x, (0, TILE - x.shape[1], 0, -len(x) % TILE)))

    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        return {"codes": torch.stack(codes, 1), "table": self.table, "scale": self.scale}


def path_steps(bits: int, device: torch.device) -> Tensor:
    """Bits that each step of a tile consumes: (128,) uint8."""
    return torch.full((STEPS,), bits * V, dtype=torch.uint8, device=device)


def to_path(tile_rows: Tensor) -> Tensor:
    """Weights as paths visit them: (tiles, steps, V) from tiles below each other: (16 tiles, 16)."""
    return tile_rows.reshape(-1, 2, 8, 2, 4, 2).permute(0, 2, 4, 3, 1, 5).reshape(-1, STEPS, V)


def from_path(paths: Tensor) -> Tensor:
    """The tiles: (tiles, 16, 16) from what their paths visit: (..., V), all steps of all tiles."""
    return paths.reshape(-1, 8, 4, 2, 2, 2).permute(0, 4, 1, 3, 2, 5).reshape(-1, TILE, TILE)
