"""Codes chosen again, piece by piece, for weights that have moved: what a V step of tuning asks of a codebook.

    code_p <- argmin_c sum_{ij in p} (decode(c)_ij - W+_ij)^2        for chosen pieces p only

PV-Tuning (arXiv 2405.14852, section 3): the values that codes stand for stay, and so do all codes but the chosen ones.
A piece is what can be chosen without touching others, the smaller the better: few weights are meant to move. Distances
are those of weights, not of a Hessian: W+ itself says where the loss falls. A chosen piece keeps its codes unless the
new ones lie nearer, so a search that is not exact never does harm, and weights that have not moved keep their codes.

| codebook                | a piece                                     | search                          |
|-------------------------|---------------------------------------------|---------------------------------|
| `grid`, `grid-row`      | one weight                                  | rounding                        |
| `outlier`               | one weight; which are outliers stays        | the nearest of its levels       |
| `trellis`, `-hyb`       | a tile (``trellis``)                 | Viterbi                         |
| `column-trellis`        | a string of one column (``trellis``) | Viterbi at the column's rate    |

| paper                   | here                    |
|-------------------------|-------------------------|
| groups of weights       | pieces                  |
| W+ = W - lr update      | ``target``              |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.products import Packed


class Recoder(ABC):
    """How the codes of one kind of codebook fall into pieces, and how these are chosen again."""

    single: bool  # a piece is one weight, and its nearest code is found at once

    @abstractmethod
    def sums(self, layer: Packed, x: Tensor) -> Tensor:
        """The sum of x: (m, n) over each piece: (pieces,); zero for pieces that have but one code."""

    @abstractmethod
    def recoded(self, layer: Packed, W: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        """The tensor ``codes`` with the chosen pieces: (k,) int64 nearest to ``target``; W: as decoded; (m, n) both."""


R = TypeVar("R", bound=type[Recoder])
_recoders: dict[type[Codebook], Recoder] = {}


def recodes(*kinds: type[Codebook]) -> Callable[[R], R]:
    """Register the recoder of these codebooks."""

    def add(recoder: R) -> R:
        _recoders.update(dict.fromkeys(kinds, recoder()))
        return recoder

    return add


def recoder_of(codebook: Codebook) -> Recoder | None:
    """None where codes of this kind stay as they are."""
    return _recoders.get(type(codebook))
