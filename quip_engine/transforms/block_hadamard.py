"""Block Hadamard transform with a scale for every row and column, as in EXL3 (github.com/turboderp-org/exllamav3).

    W~ = U diag(1/r) W diag(s) V^T      U, V: Hadamard blocks of 128 along the diagonal, times random signs

A Hadamard matrix of 128 spreads an outlier almost as well as one of the whole width, a block of the layer is decoded
without the others, and hardly a width needs a special matrix. What the blocks would leave uneven the scales take out
beforehand: r is the rms of a row of W, 1/s the rms of a column of diag(1/r) W, both relative to their mean.

The last columns of a width that 128 does not divide are mixed by a Hadamard matrix of their own number.

| EXL3          | here                                                              |
|---------------|-------------------------------------------------------------------|
| svh (outputs) | tensor ``output_scale``: (m,) float16, r with the sign            |
| suh (inputs)  | tensor ``input_scale``: (n,) float16, s with the sign (there 1/s) |

Without scales the signs alone are stored, as bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.linalg.hadamard import Hadamard, describe
from quip_engine.parts import option
from quip_engine.transforms.base import Maps, TensorSpec, Transform, transforms
from quip_engine.transforms.hadamard import draw_signs, unpack_signs

RANGE = (1e-2, 1e2)  # of a scale, relative to the mean; beyond it a row or column is dead, or alone


class BlockHadamard:
    """x -> V^T diag(signs) x for signs: (n,) float32 and V of blocks of ``width``, the last one of what is left."""

    def __init__(self, signs: Tensor, width: int) -> None:
        n = len(signs)
        self._signs = signs
        self._parts = [size for size in (n - n % width, n % width) if size]
        self._blocks = [Hadamard(min(size, width), signs.device) for size in self._parts]
        self._widths = [min(size, width) for size in self._parts]

    def forward(self, x: Tensor) -> Tensor:
        return self._blockwise(x * self._signs, [V.transpose for V in self._blocks])

    def transpose(self, x: Tensor) -> Tensor:
        return self._blockwise(x, [V.forward for V in self._blocks]) * self._signs

    def _blockwise(self, x: Tensor, maps: list[Callable[[Tensor], Tensor]]) -> Tensor:
        parts = zip(maps, x.split(self._parts, dim=-1), self._widths, strict=True)
        return torch.cat([apply(part.unflatten(-1, (-1, width))).flatten(-2) for apply, part, width in parts], -1)


@transforms.register("block-hadamard")
@dataclass(frozen=True)
class ScaledBlockHadamard(Transform):
    """Random signs and Hadamard matrices of 128 on both sides, every row and column scaled to one size (EXL3)."""

    width: int = option(128, "rows or columns that are mixed, a power of two", choices=(16, 32, 64, 128, 256, 512))
    scales: bool = option(True, "first bring all rows and all columns to one rms")

    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        m, n = W.shape
        signs = {"input": draw_signs(n, input_seed).to(W.device), "output": draw_signs(m, output_seed).to(W.device)}
        if not self.scales:
            return {f"{side}_signs": packed for side, packed in signs.items()}
        r = _relative_rms(W)
        s = 1 / _relative_rms((W / r[:, None]).T)
        return {
            "input_scale": (s * unpack_signs(signs["input"], n)).half(),
            "output_scale": (r * unpack_signs(signs["output"], m)).half(),
        }

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        if self.scales:
            sides = {"input_scale": n, "output_scale": m}
            return {name: TensorSpec((width,), torch.float16) for name, width in sides.items()}
        sides = {"input_signs": n, "output_signs": m}
        return {name: TensorSpec((-(-width // 8),), torch.uint8) for name, width in sides.items()}

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        if self.scales:
            s, r = tensors["input_scale"].float(), tensors["output_scale"].float()
            return Maps(BlockHadamard(s.sign(), self.width), BlockHadamard(r.sign(), self.width), s.abs(), r.abs())
        inputs, outputs = unpack_signs(tensors["input_signs"], n), unpack_signs(tensors["output_signs"], m)
        return Maps(BlockHadamard(inputs, self.width), BlockHadamard(outputs, self.width))

    def notes(self, m: int, n: int) -> list[str]:
        return [
            f"width {width} is not a multiple of {self.width}: its last {width % self.width} mixed by "
            f"{describe(width % self.width)}"
            for width in sorted({m, n})
            if width % self.width
        ]


def _relative_rms(W: Tensor) -> Tensor:
    """The rms of each row of W: (m, n) in units of their mean: (m,) float32."""
    rms = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
    return (rms / rms.mean().clamp_min(torch.finfo(torch.float64).tiny)).clamp(*RANGE).float()
