"""Rounding simulated: noise of the right size in the place of a long search, through everything else of a recipe.

    x^ = (1 - a) x + sqrt(a (1 - a)) t n        E (x^ - x)^2 = a t^2 = D s^2,    x of power t^2,  n ~ N(0, 1)

is the channel that a good code looks like from outside (Cover and Thomas, section 10.3.2). In the place of the nearest
codeword it leaves feedback, rates, scales and what becomes of errors in a model as they are, at a small share of the
time. D is the distortion of the codebook on a Gaussian source of power s^2 (``trellis_gaps``, ``distortion``). A
codebook of one scale errs alike whatever the power of its targets (s^2 is that of the weights); one with a scale for
each column errs by a share of it (s = t).

What a rounder gains over plain feedback by hypotheses, sweeps and the like is measured in each layer: SAMPLE of its
rows are really rounded, with the quick form of the codebook. So is what is lost to it by feedback along the columns,
whose search sees a stretch at a time: on COLUMNS of them. Codebooks that are searched in no time stay as they are.

| symbol | here                                          |
|--------|-----------------------------------------------|
| D s^2  | ``Noise._distortion``, times ``gain``         |
| t^2, a | ``power``, ``share``                          |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook, Quantizer
from quip_engine.codebooks.base import root_mean_square
from quip_engine.codebooks.column_trellis import ColumnQuantizer, ColumnTrellis, Sequences
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.codebooks.shaping import Shaping
from quip_engine.codebooks.trellis import Trellis
from quip_engine.codebooks.trellis_gaps import distortion as trellis_distortion
from quip_engine.distortion import usual_distortion
from quip_engine.linalg.proxy import quadratic_trace
from quip_engine.methods.registry import Recipe
from quip_engine.rounding import Rounder
from quip_engine.rounding.base import Rounded
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.transforms.base import TensorSpec
from quip_engine.transforms.importance import Importance

SEARCHED = (E8P, ResidualE8P, Trellis, ColumnTrellis)
SAMPLE, COLUMNS = 64, 16  # rows, or columns, that are really rounded


class Noise(Quantizer):
    """Errs as a fitted quantizer would."""

    rows = 1

    def __init__(self, codebook: Codebook, real: Quantizer, W: Tensor) -> None:
        self.codebook, self.real, self.block = codebook, real, real.block
        self.rows_scale = real.r if isinstance(real, ColumnQuantizer) else W.new_ones(1, 1)
        self.scale, self.gain, self.generator = root_mean_square(W), 1.0, torch.Generator()

    @property
    def shaping(self) -> Shaping | None:
        return self.real.shaping if isinstance(self.real, ColumnQuantizer) else None

    def prepare(self, D: list[Tensor]) -> None:
        self.real.prepare(D)

    def weigh(self, importance: Importance) -> None:
        self.importance = importance
        self.real.weigh(importance)

    def shaped_gain(self, W: Tensor) -> float:
        """Cost of some columns of W: (m, n), really rounded with feedback along them, over that with noise."""
        costs = [0.0, 0.0]
        for start in range(0, W.shape[1], -(-W.shape[1] // COLUMNS)):
            x = W[:, start : start + 1]
            for i, quantizer in enumerate((self.real, self)):
                costs[i] += self.importance.loss(quantizer.round(x, start)[0] - x, x.new_ones(1, 1))
        return costs[0] / costs[1] if costs[1] > 0 else 1.0

    def round(self, x: Tensor, start: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r = self.rows_scale
        power = (x / r).square().mean()
        D = self.gain * self._distortion(start, power)
        share = (D / power.clamp_min(1e-30)).clamp_max(1.0)

        def channel(z: Tensor) -> Tensor:
            noise = torch.randn(z.shape, generator=self.generator).to(z.device)
            return (1 - share) * z + (share * (1 - share) * power).sqrt() * noise

        value = r * (channel(x / r) if self.shaping is None else self._shaped(self.shaping, x / r, channel))
        return value, value

    def _shaped(self, shaping: Shaping, z: Tensor, channel: Callable[[Tensor], Tensor]) -> Tensor:
        """z: (m, 1) through the channel, with feedback along the column."""
        found: list[Tensor] = []

        def settle(targets: Tensor, first: int, end: int) -> Tensor:
            found.append(channel(targets[:, first:end]))
            return found[-1]

        shaping.run(Sequences(0, *shaping.shape).rows(z[:, 0]), settle)
        return torch.cat(found, 1).flatten()[: len(z), None]

    def _distortion(self, start: int, power: Tensor) -> Tensor:
        """Mean squared error in the columns from ``start`` on, whose targets have so large a mean square."""
        if isinstance(self.real, ColumnQuantizer) and isinstance(self.codebook, ColumnTrellis):
            rate = self.real.rates[start // self.codebook.group] * self.codebook.side.rate_step
            return power * trellis_distortion(self.codebook.L, [rate])[0]
        return self.scale.square()[0] * usual_distortion(self.codebook)

    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        return {"values": torch.cat(codes, 1)}


@dataclass(frozen=True)
class SimulatedCodebook(Codebook):
    """A codebook whose codes are numbers with noise; stored as they are."""

    real: Codebook

    @property
    def code_bits(self) -> float:
        return self.real.code_bits

    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> Quantizer:
        return Noise(self.real, self.real.fit(W, H, spent), W)

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        return {"values": TensorSpec((m, n), torch.float32)}

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        return tensors["values"]

    def to_json(self) -> dict[str, Any]:
        return {"name": "simulated", "real": self.real.to_json()}


@dataclass(frozen=True)
class SimulatedLDLQ(Rounder):
    """Plain feedback, with what the real rounder gains over it."""

    real: LDLQ

    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        assert isinstance(quantizer, Noise)
        plain = replace(self.real, sweeps=0, beam=1)
        quantizer.generator = generator
        if not isinstance(quantizer.codebook, ColumnTrellis):
            quantizer.gain = self._gain(plain, W, H, quantizer.codebook, generator)
        elif quantizer.shaping is not None:
            quantizer.gain = quantizer.shaped_gain(W)
        return plain.round(W, H, quantizer, generator)

    def _gain(self, plain: LDLQ, W: Tensor, H: Tensor, codebook: Codebook, generator: torch.Generator) -> float:
        """Loss of some rows, really rounded, over that with noise."""
        rows = W[:: -(-len(W) // SAMPLE)].contiguous()
        quick = codebook.quick()

        def loss(rounder: LDLQ, quantizer: Quantizer) -> float:
            return quadratic_trace(rounder.round(rows.clone(), H, quantizer, generator).weight - rows, H)

        real = quick.fit(rows, H)
        noise = Noise(quick, real, rows)
        noise.generator = generator
        return loss(self.real, real) / max(loss(plain, noise), 1e-300)


def simulated(recipe: Recipe) -> Recipe:
    """The recipe with noise in the place of a long search; itself where nothing is searched long."""
    if not isinstance(recipe.codebook, SEARCHED) or not isinstance(recipe.rounding, LDLQ):
        return recipe
    return replace(
        recipe,
        codebook=SimulatedCodebook(recipe.codebook),
        rounding=SimulatedLDLQ(recipe.rounding),
        rivals=tuple(simulated(rival) for rival in recipe.rivals),
    )
