"""No incoherence processing: W~ = W and H~ = H (the plain OPTQ and ICQuant setting)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quip_engine.transforms.base import Keep, Maps, TensorSpec, Transform, transforms


@transforms.register("none")
@dataclass(frozen=True)
class Identity(Transform):
    """Weights stay in their own basis."""

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {}

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        return {}

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        return Maps(Keep(), Keep())
