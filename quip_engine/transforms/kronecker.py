"""Random orthogonal Kronecker transform with diagonal rescale, QuIP (arXiv 2307.13304, section 4).

    W~ = U W diag(s) V^T        H~ = V diag(1/s) H diag(1/s) V^T        U, V = P_out (A (x) B) P_in

Only the seeds of U and V are stored: the rotations are drawn again on loading, always on the CPU, so the streams of
``torch.Generator`` for ``randn`` and ``randperm`` are part of the format.

| paper          | here              |
|----------------|-------------------|
| V (inputs)     | ``input_seed``    |
| U (outputs)    | ``output_seed``   |
| D~ (rescale)   | ``input_scale``   |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.linalg.orthogonal import KroneckerRotation, balanced_factors
from quip_engine.parts import option
from quip_engine.transforms.base import Maps, TensorSpec, Transform, transforms
from quip_engine.transforms.rescale import fourth_root_rescale


@transforms.register("kronecker")
@dataclass(frozen=True)
class RandomOrthogonal(Transform):
    """Random orthogonal Kronecker factors and permutations on both sides (QuIP)."""

    rescale: bool = option(True, "first balance columns by the fourth root of H_ii / |W_i|^2")

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        tensors = {
            "input_seed": torch.tensor([input_seed], device=W.device),
            "output_seed": torch.tensor([output_seed], device=W.device),
        }
        return tensors | ({"input_scale": fourth_root_rescale(W, H)} if self.rescale else {})

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        seed = TensorSpec((1,), torch.int64)
        specs = {"input_seed": seed, "output_seed": seed}
        return specs | ({"input_scale": TensorSpec((n,), torch.float16)} if self.rescale else {})

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        device = tensors["input_seed"].device
        return Maps(
            input_rotation=_rotation(n, int(tensors["input_seed"]), device),
            output_rotation=_rotation(m, int(tensors["output_seed"]), device),
            input_scale=tensors["input_scale"].float() if self.rescale else None,
        )

    def notes(self, m: int, n: int) -> list[str]:
        primes = sorted({width for width in (m, n) if balanced_factors(width)[0] == 1})
        return [
            f"width {width} has no two factors: a dense rotation instead of a Kronecker product" for width in primes
        ]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _rotation(n: int, seed: int, device: torch.device) -> KroneckerRotation:
    """Drawing a rotation takes milliseconds and layers share them: the last few are kept."""
    return KroneckerRotation(n, seed, device)
