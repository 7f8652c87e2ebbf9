"""Fourier transform with random phases, for every width alike, QuIP# (arXiv 2402.04396, appendix on other widths).

    W~ = U W V^T        V x: pairs of coordinates as complex numbers, times phases e^(i theta), through a unitary FFT

An orthogonal map of n real numbers that spreads an outlier as a Hadamard matrix does, in O(n log n) for every even n.
An odd width has one number without partner: there the map acts on all but the last, then, with other phases, on all
but the first, and the product of both is orthogonal and mixes everything.

Angles theta are multiples of 2 pi / 256, a byte for each pair, which is all that is stored: n / 2 bytes for an even
width, n - 1 for an odd one.

| paper  | here                                           |
|--------|------------------------------------------------|
| theta  | tensors ``input_angles``, ``output_angles``    |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.parts import option
from quip_engine.transforms.base import Keep, Maps, Rotation, TensorSpec, Transform, transforms

ANGLES = 256  # to the full circle


class PhasedFourier:
    """x -> F diag(e^(i theta)) x on pairs of n > 1 real coordinates, and its transpose.

    ``angles``: (angles_of(n),) uint8.
    """

    def __init__(self, angles: Tensor, n: int) -> None:
        theta = angles.float() * (2 * math.pi / ANGLES)
        phases = torch.polar(torch.ones_like(theta), theta)
        places = [slice(0, n)] if n % 2 == 0 else [slice(0, n - 1), slice(1, n)]
        self._passes = list(zip(places, phases.chunk(len(places)), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for place, phases in self._passes:
            x = _replaced(x, place, torch.fft.fft(_pairs(x[..., place]) * phases, norm="ortho"))
        return x

    def transpose(self, x: Tensor) -> Tensor:
        for place, phases in reversed(self._passes):
            x = _replaced(x, place, torch.fft.ifft(_pairs(x[..., place]), norm="ortho") * phases.conj())
        return x


@transforms.register("fourier")
@dataclass(frozen=True)
class RandomFourier(Transform):
    """Random phases and a Fourier transform on both sides: any width, no Hadamard matrix needed (QuIP#)."""

    sides: str = option("both", "which sides are rotated", choices=("both", "input", "output"))

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        seeds = {"input_angles": input_seed, "output_angles": output_seed}
        return {
            name: _draw_angles(spec.shape[0], seeds[name]).to(W.device) for name, spec in self.layout(*W.shape).items()
        }

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        widths = {"input": n, "output": m}
        return {
            f"{side}_angles": TensorSpec((angles_of(width),), torch.uint8)
            for side, width in widths.items()
            if self.sides in (side, "both") and width > 1
        }

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        def rotation(name: str, width: int) -> Rotation:
            return PhasedFourier(tensors[name], width) if name in tensors else Keep()

        return Maps(rotation("input_angles", n), rotation("output_angles", m))


def angles_of(n: int) -> int:
    """Angles for a width n; a width of one has nothing to mix."""
    return n // 2 if n % 2 == 0 else n - 1


def _draw_angles(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, ANGLES, (count,), generator=generator, dtype=torch.uint8)


def _pairs(x: Tensor) -> Tensor:
    """Neighbours as complex numbers: (..., n / 2) from (..., n)."""
    return torch.complex(x[..., 0::2].contiguous(), x[..., 1::2].contiguous())


def _replaced(x: Tensor, place: slice, z: Tensor) -> Tensor:
    """x: (..., n) with the numbers z stands for at ``place``."""
    return torch.cat([x[..., : place.start], torch.view_as_real(z).flatten(-2), x[..., place.stop :]], -1)
