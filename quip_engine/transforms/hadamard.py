"""Randomized Hadamard transform, QuIP# (arXiv 2402.04396, section 3).

    W~ = V_m^T diag(s_out) W diag(s_in) V_n        H~ = V_n^T diag(s_in) H diag(s_in) V_n

With random signs s the largest entry of W~ and of the eigenvectors of H~ is within a factor of about sqrt(log) of the
smallest possible (lemma 3.1). Costs two sign vectors, one bit per row and per column. One side alone keeps what is
uneven on the other side for a codebook that makes use of it.

A rotation of the outputs spreads the error evenly over them, whatever they count. A scale for each output beforehand
leaves row i the error variance r_i^2 mean_j(w_j^2 / r_j^2), for rows of rms w; where a squared error of output i costs
h_i, the sum over i of h_i r_i^2 times that is least for

    r_i = w_i^(1/2) h_i^(-1/4)

Four bits a row hold it, in steps of a quarter octave: a step is far finer than the optimum is sharp.

| paper                 | here                          |
|-----------------------|-------------------------------|
| S_V (code: SU), n     | ``input_signs``               |
| S_U (code: SV), m     | ``output_signs``              |
| scaleWH (rescale_WH)  | ``input_scale``, an option    |
| r                     | ``output_scale``, an option   |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.linalg.hadamard import Hadamard, awkward_part, describe
from quip_engine.parts import option
from quip_engine.transforms.base import Casting, Keep, Maps, Rotation, TensorSpec, Transform, transforms
from quip_engine.transforms.rescale import fourth_root_rescale

SCALE_STEP = 1 / 4  # octaves
SMALLEST = 2**-12  # of the largest rms or importance; what is smaller counts as that


class SignedHadamard(Casting):
    """x -> V^T diag(s) x for signs s: (n,) float32, and its transpose."""

    def __init__(self, signs: Tensor) -> None:
        self._signs = signs
        self._hadamard = Hadamard(len(signs), signs.device)

    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._hadamard.transpose(x, self._signs, dtype)

    def transpose(self, x: Tensor, dtype: torch.dtype = torch.float32, plus: Tensor | None = None) -> Tensor:
        return self._hadamard.forward(x, self._signs, plus, dtype)


@transforms.register("hadamard")
@dataclass(frozen=True)
class RandomizedHadamard(Transform):
    """Random signs and Hadamard matrices on both sides (QuIP#)."""

    sides: str = option("both", "which sides are rotated", choices=("both", "input", "output"))
    rescale: bool = option(False, "first balance columns by the fourth root of H_ii / |W_i|^2 (QuIP)")
    output_scales: bool = option(False, "first scale rows so that errors go where they cost least")

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        m, n = W.shape
        drawn = {"input_signs": (n, input_seed), "output_signs": (m, output_seed)}
        tensors = {name: draw_signs(*drawn[name]).to(W.device) for name in self._signs()}
        if self._scales_rows:
            tensors["output_scale"] = _pack_scales(_best_scales(W, importance))
        return tensors | ({"input_scale": fourth_root_rescale(W, H)} if self.rescale else {})

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        widths = {"input_signs": n, "output_signs": m}
        specs = {name: TensorSpec((-(-widths[name] // 8),), torch.uint8) for name in self._signs()}
        if self._scales_rows:
            specs["output_scale"] = TensorSpec((-(-m // 2),), torch.uint8)
        return specs | ({"input_scale": TensorSpec((n,), torch.float16)} if self.rescale else {})

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        def rotation(name: str, width: int) -> Rotation:
            return SignedHadamard(unpack_signs(tensors[name], width)) if name in tensors else Keep()

        return Maps(
            input_rotation=rotation("input_signs", n),
            output_rotation=rotation("output_signs", m),
            input_scale=tensors["input_scale"].float() if self.rescale else None,
            output_scale=_unpack_scales(tensors["output_scale"], m) if self._scales_rows else None,
        )

    def notes(self, m: int, n: int) -> list[str]:
        rotated = {width for name, width in (("output_signs", m), ("input_signs", n)) if name in self._signs()}
        awkward = sorted(width for width in rotated if awkward_part(width) > 1)
        return [f"no Hadamard matrix of width {width}: {describe(width)} instead" for width in awkward]

    @property
    def _scales_rows(self) -> bool:
        return self.output_scales and "output_signs" in self._signs()

    def _signs(self) -> tuple[str, ...]:
        """Names of the sign vectors that are stored."""
        return tuple(f"{side}_signs" for side in ("input", "output") if self.sides in (side, "both"))


def draw_signs(n: int, seed: int) -> Tensor:
    """n random signs as bits, 8 to a byte, the first in the lowest bit: (ceil(n / 8),) uint8 on the CPU."""
    bits = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    padded = torch.nn.functional.pad(bits, (0, -n % 8)).reshape(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack_signs(packed: Tensor, n: int) -> Tensor:
    """The signs as +1 (bit set) and -1: (n,) float32 from (ceil(n / 8),) uint8."""
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.reshape(-1)[:n].float() * 2 - 1


def _best_scales(W: Tensor, importance: Tensor | None) -> Tensor:
    """r: (m,) for the rows of W: (m, n), up to a factor."""
    rms = torch.linalg.vector_norm(W, dim=1)
    r = rms.clamp_min(max(float(rms.max()) * SMALLEST, 1e-30)).sqrt()
    if importance is None:
        return r
    return r * importance.clamp_min(max(float(importance.max()) * SMALLEST, 1e-30)).pow(-0.25)


def _pack_scales(r: Tensor) -> Tensor:
    """Steps below the largest r: (m,), two to a byte, the first in the lower half: (ceil(m / 2),) uint8."""
    steps = ((r.max() / r).log2() / SCALE_STEP).round().clamp(0, 15).to(torch.uint8)
    low, high = torch.nn.functional.pad(steps, (0, -len(r) % 2)).view(-1, 2).unbind(1)
    return low | high << 4


def _unpack_scales(packed: Tensor, m: int) -> Tensor:
    """r: (m,) float32, at most 1."""
    steps = torch.stack([packed & 15, packed >> 4], 1).flatten()[:m]
    return 2 ** (-SCALE_STEP * steps.float())
