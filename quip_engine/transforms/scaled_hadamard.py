"""Hadamard transform with real numbers in the place of its signs: what fine-tuning makes of the randomized one.

    W = diag(u) V_m W~ V_n^T diag(v)        y = u * ( V_m ( W~ ( V_n^T ( v * x ) ) ) )

QuIP# (arXiv 2402.04396, section 5) and QTIP (arXiv 2406.11235, section 4.2) relax the sign vectors to real ones and
train them: a scale for every input and every output at no cost in speed. ``fit`` draws what ``hadamard`` draws, so
both start with the same rotation. With vectors that are no signs the two maps are no longer orthogonal; a tensor that
is to be trained has to be float32, and then gradients reach it.

| paper                                   | here                    |
|-----------------------------------------|-------------------------|
| S_V (code: SU), v                       | ``input_vector``: (n,)  |
| S_U (code: SV, with Wscale in it), u    | ``output_vector``: (m,) |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.parts import option
from quip_engine.transforms.base import Maps, TensorSpec, Transform, transforms
from quip_engine.transforms.hadamard import RandomizedHadamard, SignedHadamard, draw_signs, unpack_signs


@dataclass
class ScaledMaps(Maps):
    """Maps whose rotations are scaled: v and u as in the module's equation."""

    input_vector: Tensor | None = None
    output_vector: Tensor | None = None

    def weight(self, W: Tensor) -> Tensor:
        """W~ = V_m^T diag(1/u) W diag(1/v) V_n: (m, n) from W: (m, n). Not defined where an entry of u or v is zero."""
        assert self.input_vector is not None and self.output_vector is not None
        return super().weight(W / self.input_vector.square() / self.output_vector.square()[:, None])


@transforms.register("scaled-hadamard")
@dataclass(frozen=True)
class ScaledHadamard(Transform):
    """Hadamard matrices and a real vector on both sides, for fine-tuning (QuIP#, QTIP)."""

    input_dtype: str = option("float16", "type of the stored input vector", choices=("float16", "float32"))

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        m, n = W.shape
        signs = {"input_vector": (n, input_seed), "output_vector": (m, output_seed)}
        return {
            name: unpack_signs(draw_signs(*signs[name]), spec.shape[0]).to(W.device, spec.dtype)
            for name, spec in self.layout(m, n).items()
        }

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        return {
            "input_vector": TensorSpec((n,), getattr(torch, self.input_dtype)),
            "output_vector": TensorSpec((m,), torch.float32),
        }

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> ScaledMaps:
        v, u = (tensors[name].float() for name in self.layout(m, n))
        return ScaledMaps(SignedHadamard(v), SignedHadamard(u), input_vector=v, output_vector=u)

    def notes(self, m: int, n: int) -> list[str]:
        return RandomizedHadamard().notes(m, n)
