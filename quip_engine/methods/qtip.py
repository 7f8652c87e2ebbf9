"""QTIP: randomized Hadamard incoherence and BlockLDLQ on the paths of a trellis (arXiv 2406.11235, section 4).

The published format at L = 12, the search of L = 16 being long on a CPU. Better than published are the code, whose
values are spread over the branches (``trellis_codes``) and, up to 3 bits, computed in registers; the search, which
weighs a column by the feedback it causes; a sweep that accepts only what lowers the loss; and in a whole model, where
gradients tell what errors cost, weights of tokens, scales of rows, and layers of fewer and of more bits. The published
form is ``L=16``, ``code=hyb`` (or ``3inst``, ``1mad``), ``scale=0.9``, ``metric=false``, ``sweeps=0``,
``damping=0.01``, ``hessian=plain``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quip_engine.codebooks.trellis import Trellis
from quip_engine.methods.registry import Preset, Recipe, hessian_option, presets, spread_option
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.transforms.hadamard import RandomizedHadamard

FEW_VALUES = 3  # bits up to which 256 values do; at 4 they lose 2 %
DAMPING = 0.05  # of a weighted Hessian: the weights leave fewer tokens that count


@presets.register("qtip")
@dataclass(frozen=True)
class QTIP(Preset):
    """Randomized Hadamard incoherence and BlockLDLQ on the paths of a trellis."""

    paper: ClassVar[str] = "QTIP: Quantization with Trellises and Incoherence Processing, arXiv 2406.11235"
    published: ClassVar[str] = "2024-06"
    summary: ClassVar[str] = "Fast Hadamard rotations and 256 weights at a time on a path of a trellis."
    bits: ClassVar[tuple[float, ...]] = (1, 2, 3, 4)

    hessian: str = hessian_option("weighted")
    spread: float = spread_option()

    def recipe(self, bits: float) -> Recipe:
        weighted = self.hessian != "plain"
        transform = RandomizedHadamard(output_scales=weighted)
        rounding = LDLQ(sweeps=3, damping=DAMPING) if weighted else LDLQ(sweeps=1)
        code = "levels" if bits <= FEW_VALUES else "quantile"
        return Recipe(transform, Trellis(bits=int(bits), code=code), rounding, spread=self.spread)
