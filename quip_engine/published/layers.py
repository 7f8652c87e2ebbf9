"""What a published folder stores for a packed layer, and what has to become of it.

A format names the packed layers of a model and the tensors each must have (``PublishedFormat.tensors``), so that the
headers of the files can be compared before anything is read, and turns what was read into the tensors of a
``LayerFormat``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quip_engine.architecture import decoder_blocks
from quip_engine.errors import fail
from quip_engine.layer import LayerFormat
from quip_engine.linalg.hadamard import PUBLISHED, orders

FLOATS = ("float16", "float32")
SCALAR = ((), (1,))  # shapes
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class PackedLayer:
    """One matrix of codes: its name in the files, and the linear layers whose rows it holds, first to last."""

    name: str
    rows: dict[str, int]  # module path -> outputs
    n: int

    @property
    def m(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class Stored:
    """What a tensor of the files has to be: one of these types and one of these shapes."""

    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


class PublishedFormat(ABC):
    """One published layout, with the settings of config.json."""

    method: ClassVar[str]  # our preset's name for it
    bits: int  # per weight, of most layers

    @abstractmethod
    def layers(self, model: PreTrainedModel) -> list[PackedLayer]:
        """The packed layers of a model (on meta)."""

    @abstractmethod
    def tensors(self, layer: PackedLayer) -> dict[str, Stored]:
        """The tensors of a layer by the last part of their name."""

    @abstractmethod
    def relayout(self, layer: PackedLayer, stored: dict[str, Tensor]) -> tuple[LayerFormat, dict[str, Tensor]]:
        """How our layer is stored, and its tensors, from those of the files: they fit ``tensors``."""


def linear_rows(model: PreTrainedModel) -> Iterator[tuple[int, str, dict[str, nn.Linear]]]:
    """Number and module path of each block, and its linear layers by path in the block."""
    prefix, blocks = decoder_blocks(model)
    for index, block in enumerate(blocks):
        found: dict[str, nn.Linear] = {}
        for path in (*ATTENTION, *MLP):
            module = block.get_submodule(path)
            if not isinstance(module, nn.Linear) or module.bias is not None:
                damaged(f"{prefix}.{index}.{path} has a bias, which the published layout has no room for")
            found[path] = module
        yield index, f"{prefix}.{index}", found


def check_width(name: str, width: int, multiple: int) -> None:
    """Refuse a width that the layout cannot have: no multiple of its tile, or without a published Hadamard matrix."""
    found = orders(width)
    tables = [K for K in found or () if K & (K - 1)]  # what is left beside powers of two
    if width % multiple or found is None or len(tables) > 1 or not PUBLISHED.issuperset(tables):
        damaged(f"{name}: the published layout has no {width} rows or columns")


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if all of it is finite."""
    if not torch.isfinite(tensor).all():
        damaged(f"{name} holds NaN or infinite values")
    return tensor


def check_value(key: str, value: Any, *known: Any) -> Any:
    """The value, if it is one that is known, and of the same type."""
    if not any(value == one and type(value) is type(one) for one in known):
        words = " or ".join(str(one) for one in known)
        damaged(f"{key} is {str(value)[:80]}; known: {words}")
    return value


def damaged(reason: str) -> NoReturn:
    fail("BAD_CHECKPOINT", path="The published model", reason=reason)
