"""What the weight files of a finished folder take, to the byte, before there is one.

file = 8 bytes + header (JSON, filled up to whole words of 8) + data        one file for what lies outside the
                                                                            blocks, and one for each block
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from quip_engine.architecture import BUILDING, decoder_blocks
from quip_engine.embedding import outer_modules, stored_outer
from quip_engine.layer import LayerFormat
from quip_engine.probe.facts import ModelFacts
from quip_engine.probe.folder import weight_files
from quip_engine.probe.headers import DTYPES, read_all
from quip_engine.probe.names import build_checked
from quip_engine.probe.settings import read_config

NAMES = {torch_name: name for name, (torch_name, _) in DTYPES.items()}
METADATA = {"__metadata__": {"format": "pt"}}
# The order of types within a file, as the library writes them.
ORDER = ("int64", "float64", "float32", "int32", "bfloat16", "float16", "int16", "int8", "uint8", "bool")


class StoredTensor(NamedTuple):
    """A tensor to be stored."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def kind(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def file_bytes(tensors: Iterable[StoredTensor]) -> int:
    """Of a safetensors file with these tensors."""
    header: dict[str, object] = dict(METADATA)
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (ORDER.index(tensor.kind), tensor.name)):
        start, end = end, end + tensor.bytes
        header[tensor.name] = _entry(tensor, start, end)
    return 8 + -(-len(_text(header)) // 8) * 8 + end


def entry_bytes(tensors: Iterable[StoredTensor], file: int) -> int:
    """What tensors take in a file of about ``file`` bytes, their part of the header included."""
    return sum(tensor.bytes + len(_text({tensor.name: _entry(tensor, file, file)})) - 1 for tensor in tensors)


def _entry(tensor: StoredTensor, start: int, end: int) -> dict[str, object]:
    return {"dtype": NAMES[tensor.kind], "shape": tensor.shape, "data_offsets": [start, end]}


def _text(header: dict[str, object]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def layer_tensors(name: str, shape: tuple[int, int], form: LayerFormat) -> list[StoredTensor]:
    """Those of a packed layer."""
    return [StoredTensor(f"{name}.{key}", spec.dtype, spec.shape) for key, spec in form.layout(*shape).items()]


class WeightFiles:
    """The weight files that a model of ``facts`` will have. Nothing is read of it but headers.

    ``embeddings``: how those and the head are stored, if not as they are.
    """

    def __init__(self, facts: ModelFacts, embeddings: LayerFormat | None = None) -> None:
        files = read_all(weight_files(Path(facts.path)))
        model = build_checked(read_config(Path(facts.path)), stored=files)
        with BUILDING:  # transformers ties nothing anywhere while it builds a model
            model.tie_weights()
        prefix, _ = decoder_blocks(model)
        self.shapes = {layer.name: layer.shape for layer in facts.linear_layers}
        self.outside: list[StoredTensor] = []
        self.blocks: list[list[StoredTensor]] = [[] for _ in range(facts.blocks)]
        packed = outer_modules(model) if embeddings else {}
        for tensor in _stored(model, getattr(torch, facts.dtype)):
            module = tensor.name.removesuffix(".weight")
            if tensor.name.startswith(f"{prefix}."):
                self.blocks[int(tensor.name[len(prefix) + 1 :].partition(".")[0])].append(tensor)
            elif embeddings and module in packed and module != tensor.name:
                specs = stored_outer(packed[module], embeddings, tensor.dtype)
                self.outside += [StoredTensor(f"{module}.{key}", spec.dtype, spec.shape) for key, spec in specs.items()]
            else:
                self.outside.append(tensor)

    def bytes(self, forms: Mapping[str, LayerFormat]) -> int:
        """Of all files, with layers stored in ``forms`` by module path; those without stay as they are."""
        return file_bytes(self.outside) + sum(self.block_bytes(block, forms) for block in range(len(self.blocks)))

    def block_bytes(self, block: int, forms: Mapping[str, LayerFormat]) -> int:
        """Of the file of one block."""
        tensors: list[StoredTensor] = []
        for tensor in self.blocks[block]:
            name = tensor.name.removesuffix(".weight")
            form = forms.get(name) if name != tensor.name else None
            tensors += [tensor] if form is None else layer_tensors(name, self.shapes[name], form)
        return file_bytes(tensors)


def _stored(model: nn.Module, dtype: torch.dtype) -> list[StoredTensor]:
    """The tensors of a model as they are stored; those that are tied are stored once."""
    found, seen = [], set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            found.append(StoredTensor(name, kind, tuple(tensor.shape)))
    return found
