"""Water-filled trellis, our own: one trellis sequence down each column, bits where the Hessian wants them.

Compared with QTIP it changes three things (``column_trellis``): feedback is scalar, each column has its own rate, and
the side whose scales are uneven is not rotated away. Which side that is differs from layer to layer, so each layer is
tried with all four ways of rotating, quickly, and gets the one that loses least.

Where an output or nothing is rotated, columns keep their own scale and rate, and the largest diag H comes last: the
LDL diagonal is then most uneven, which is what a rate per column lives on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from quip_engine.codebooks.column_trellis import RATES, ColumnTrellis
from quip_engine.methods.registry import Preset, Recipe, hessian_option, presets, spread_option, targets_option
from quip_engine.parts import option
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.transforms.hadamard import RandomizedHadamard
from quip_engine.transforms.none import Identity

DAMPING = 0.005  # half of what methods of one rate like: 0.002 to 0.01 differ by a hundredth
SIDES = ("both", "input", "output", "none")


@presets.register("waterfill")
@dataclass(frozen=True)
class Waterfill(Preset):
    """Trellis sequences down the columns, a rate for each."""

    paper: ClassVar[str] = "our own: QTIP's trellis with reverse water-filling"
    published: ClassVar[str] = "2026-11"
    summary: ClassVar[str] = (
        "Every column gets the bits its errors are worth. The lowest proxy loss at any rate from 1 to 5 bits."
    )
    bits: ClassVar[tuple[float, ...]] = RATES

    sides: str = option(
        "trial", "which sides are rotated; trial: each layer by what loses least", choices=("trial", *SIDES)
    )
    hessian: str = hessian_option("weighted")
    targets: str = targets_option("corrected")
    spread: float = spread_option()

    @property
    def L(self) -> int:
        """Bits of the trellis state, if nothing else is asked."""
        return 12

    def recipe(self, bits: float) -> Recipe:
        rivals = tuple(one_recipe(bits, self.L, sides) for sides in SIDES if self.sides in ("trial", sides))
        return replace(rivals[0], rivals=rivals if len(rivals) > 1 else (), spread=self.spread)


@presets.register("best")
@dataclass(frozen=True)
class Best(Waterfill):
    """What measures best at every rate.

    With feedback between outputs states of 12 bits do as well as those of 16, of which more is settled where a stretch
    of a sequence ends (``shaping``): the same KL on two models, three seeds each. Without it, 16 loses 1 to 2 % less.
    """

    summary: ClassVar[str] = (
        "The lowest loss we know at any rate: water-filled, and outputs make good each other's errors, too."
    )
    hessian: str = hessian_option("two-sided")

    @property
    def L(self) -> int:
        return 12 if self.hessian == "two-sided" else 16


def one_recipe(bits: float, L: int, sides: str) -> Recipe:
    """The recipe that rotates ``sides``, one of SIDES."""
    transform = Identity() if sides == "none" else RandomizedHadamard(sides=sides)
    columns_uneven, rows_uneven = sides in ("output", "none"), sides in ("input", "none")
    codebook = ColumnTrellis(bits=bits, L=L, group=1 if columns_uneven else 16, row_scales=rows_uneven)
    return Recipe(transform, codebook, LDLQ(damping=DAMPING, order="largest-last" if columns_uneven else "natural"))
