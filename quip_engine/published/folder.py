"""From a published folder to a model: everything is compared first, then read layer by layer.

The model is built on the meta device from config.json. Names, types and shapes of all tensors are compared with the
headers of the files before a weight is read, and values that choose a meaning (codebook, decode mode) before they are
used. Files are opened anew for each layer: a mapping that stays open keeps every page it has touched in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from quip_engine.errors import QuipError, fail
from quip_engine.fused import place_fused
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.probe.folder import weight_files
from quip_engine.probe.headers import TensorInfo, read_all
from quip_engine.probe.names import FLOATS, HARMLESS, build_checked
from quip_engine.probe.packing import PUBLISHED, QTIP
from quip_engine.probe.settings import architecture_of, check_config, read_config
from quip_engine.published.layers import PackedLayer, PublishedFormat, Stored, damaged
from quip_engine.published.qtip import QtipFormat
from quip_engine.published.quip_sharp import QuipSharpFormat
from quip_engine.published.saving import describe_quantization

MODEL_TYPES = {"llama": "Llama", "mistral": "Mistral"}
GENERATION = "generation_config.json"


def is_published(folder: Path) -> bool:
    """Whether config.json says that a folder holds a published QuIP# or QTIP model."""
    try:
        return PUBLISHED in read_config(folder)
    except (OSError, QuipError):
        return False


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of a published folder without what describes its codes, checked like that of any model."""
    config = {key: value for key, value in read_config(folder).items() if key != PUBLISHED}
    check_config(config, folder)
    if config["model_type"] not in MODEL_TYPES:
        reason = "published QuIP# and QTIP models have the blocks of Llama"
        supported = ", ".join(MODEL_TYPES.values())
        fail("UNSUPPORTED_ARCH", architecture=architecture_of(config), reason=reason, supported=supported)
    return config


@dataclass(frozen=True)
class Contents:
    """A published folder whose headers are what its config.json asks for."""

    model: PreTrainedModel  # on meta, nothing packed yet
    layout: PublishedFormat
    layers: list[PackedLayer]
    files: dict[str, TensorInfo]
    dense: list[str]  # names of the tensors that are not packed


def check_published(folder: Path, dtype: torch.dtype = torch.float32) -> Contents:
    """Compare config.json and headers of a folder with the published layout; no weight is read. Raises as reading."""
    config = model_config(folder)
    layout = _format(read_config(folder)[PUBLISHED])
    files = read_all(weight_files(folder))
    model = build_checked(config, dtype)
    layers = layout.layers(model)
    return Contents(model, layout, layers, files, _check(model, layout, layers, files))


def read_published(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a published folder on ``device``, packed, in evaluation mode.

    ``dtype`` is that of what is not packed. Raises the coded error of what is wrong with config.json or the files,
    ``BAD_CHECKPOINT`` where they are not what the published layout says.
    """
    found = check_published(folder, dtype)
    model, layout, layers, files = found.model, found.layout, found.layers, found.files
    formats = {}
    for layer in layers:
        names = {name: f"{layer.name}.{name}" for name in layout.tensors(layer)}
        formats[layer.name] = _place(model, layer, *layout.relayout(layer, _read(files, names, device)))
    for name in found.dense:
        _set(model, name, _read(files, {name: name}, device)[name].to(dtype, copy=True))
    _tie(model)
    for owner in model.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(device))
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    fused = {layer.name: list(layer.rows) for layer in layers if len(layer.rows) > 1}
    describe_quantization(model, method=layout.method, bits=layout.bits, formats=formats, fused=fused)
    return model.eval()


def _format(params: Any) -> PublishedFormat:
    if not isinstance(params, dict):
        damaged(f"{PUBLISHED} of config.json is not an object")
    kind = QtipFormat if params.get("codebook") == QTIP else QuipSharpFormat
    return kind.from_params(params)


def _check(
    model: PreTrainedModel, layout: PublishedFormat, layers: list[PackedLayer], files: dict[str, TensorInfo]
) -> list[str]:
    """Compare the files with what the model needs. Returns the names of the tensors that are not packed."""
    expected = {f"{layer.name}.{name}": stored for layer in layers for name, stored in layout.tensors(layer).items()}
    packed = {f"{path}.weight" for layer in layers for path in layer.rows}
    dense = {name: tensor for name, tensor in model.state_dict().items() if name not in packed}
    expected |= {name: Stored(FLOATS, (tuple(tensor.shape),)) for name, tensor in dense.items()}
    optional = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    for name, stored in expected.items():
        if name in files:
            _compare(name, stored, files[name])
        elif name not in optional:
            damaged(f"{name} is missing")
    for name in files:
        if name not in expected and not HARMLESS.search(name):
            damaged(f"{name} is no part of the published layout")
    return [name for name in dense if name in files]


def _compare(name: str, stored: Stored, found: TensorInfo) -> None:
    if found.dtype not in stored.dtypes:
        damaged(f"{name} is stored as {found.dtype} instead of {' or '.join(stored.dtypes)}")
    if found.shape not in stored.shapes:
        damaged(f"{name} has shape {found.shape} instead of {stored.shapes[0]}")


def _read(files: dict[str, TensorInfo], names: dict[str, str], device: torch.device) -> dict[str, Tensor]:
    """Tensors of the files on ``device``, by the keys of ``names``; on the CPU they may be views of the files."""
    tensors: dict[str, Tensor] = {}
    for path in {files[name].file for name in names.values()}:
        with safe_open(path, framework="pt") as file:
            of_file = {key: name for key, name in names.items() if files[name].file == path}
            tensors |= {key: file.get_tensor(name).to(device) for key, name in of_file.items()}
    return tensors


def _place(model: nn.Module, layer: PackedLayer, format: LayerFormat, tensors: dict[str, Tensor]) -> LayerFormat:
    """Put a packed layer where the model has the linear layers it stands for."""
    linear = QuantizedLinear(layer.n, layer.m, False, format, device="meta")
    linear.load_state_dict(tensors, assign=True)
    if len(layer.rows) > 1:
        place_fused(model, layer.name, linear, layer.rows)
    else:
        model.set_submodule(layer.name, linear)
    return format


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, key = name.rpartition(".")
    model.get_submodule(path).register_parameter(key, nn.Parameter(tensor))


def _tie(model: PreTrainedModel) -> None:
    """Tie the head to the embedding where config.json does, but keep a stored head that differs."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.tie_word_embeddings and not head.weight.is_meta:
        model.config.tie_word_embeddings = torch.equal(head.weight, embedding.weight)
    model.tie_weights()
    _refuse_meta(model.named_parameters())


def _refuse_meta(parameters: Iterable[tuple[str, Tensor]]) -> None:
    for name, parameter in parameters:
        if parameter.is_meta:
            damaged(f"{name} is missing")
