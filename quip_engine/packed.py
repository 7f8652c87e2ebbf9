"""What a packed folder is, one of ours or a published one: told from its headers, compared with what loading needs.

    bits per weight = stored bits of the packed layers / weights they stand for

No weight is read. A folder that gets here without an error has every tensor it needs, of the right type and shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from quip_engine.architecture import decoder_blocks, linear_layers
from quip_engine.embedding import QuantizedEmbedding, QuantizedHead
from quip_engine.errors import fail
from quip_engine.hf import QuipConfig, check_tensors, place_packed
from quip_engine.linear import QuantizedLinear
from quip_engine.probe.facts import LinearLayer
from quip_engine.probe.folder import licence_of, weight_files
from quip_engine.probe.headers import read_all
from quip_engine.probe.names import build_checked
from quip_engine.probe.packing import Packing
from quip_engine.probe.settings import ENCODERS, architecture_of, check_config, read_config, runs_with
from quip_engine.probe.tokenizer import NO_TEMPLATE, TokenizerCheck, TokenizerFacts
from quip_engine.published import check_published, is_published, model_config


@dataclass(frozen=True)
class PackedFacts:
    """A checked folder of a packed model. Sizes are bytes."""

    path: str  # the folder on this disk
    name: str  # hub id, or name of the folder
    architecture: str
    model_type: str
    parameters: int  # of the model it stands for; a tied head counts once
    blocks: int
    bytes: int  # of all weight files
    licence: str | None
    chat_template: bool
    linear_layers: list[LinearLayer]  # of the model it stands for
    kept: list[str]  # those of them that are not packed
    packing: Packing
    bits_per_weight: float  # of the packed layers, counted
    embedding_bits: float | None  # per weight of packed embeddings; None: they are dense
    runs_with: list[str]  # commands and pages
    warnings: list[tuple[str, str]]  # (code, message)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Contents:
    """What is in the files of a folder."""

    layers: list[LinearLayer]  # of the dense model
    parameters: int
    packed: set[str]  # those of the layers that are packed
    bits: int  # stored for them
    embedding_bits: float | None = None  # per weight


def check_packed(folder: Path) -> TokenizerFacts:
    """Check config.json and the tokenizer of a packed folder, and that its files are there. Raises the coded errors."""
    config = _config(folder)
    read_all(weight_files(folder))
    with TokenizerCheck(folder) as tokenizer:
        words = tokenizer.result()
    rows = config.get("vocab_size", words.tokens)
    if words.tokens > rows:  # a GPU would fail on them, and take everything else with it
        fail("VOCAB_MISMATCH", tokens=words.tokens, rows=rows)
    return words


def packed_facts(folder: Path, name: str, packing: Packing) -> PackedFacts:
    """Facts of a packed folder that people call ``name``; raises the coded error of the first thing wrong with it."""
    words, config = check_packed(folder), _config(folder)
    contents = _published(folder) if is_published(folder) else _ours(folder, config)
    layers, encoder = contents.layers, config["model_type"] in ENCODERS
    weights = sum(layer.shape[0] * layer.shape[1] for layer in layers if layer.name in contents.packed)
    return PackedFacts(
        path=str(folder),
        name=name,
        architecture=architecture_of(config),
        model_type=config["model_type"],
        parameters=contents.parameters,
        blocks=1 + max(layer.block for layer in layers),
        bytes=sum(file.stat().st_size for file in weight_files(folder)),
        licence=licence_of(folder),
        chat_template=words.chat_template,
        linear_layers=layers,
        kept=[layer.name for layer in layers if layer.name not in contents.packed],
        packing=packing,
        bits_per_weight=contents.bits / max(weights, 1),
        embedding_bits=contents.embedding_bits,
        runs_with=runs_with(config),
        warnings=[warning for warning in words.warnings if not encoder or warning != NO_TEMPLATE],
    )


def _config(folder: Path) -> dict[str, Any]:
    """The checked config.json of a packed folder without what says how it is packed."""
    if is_published(folder):
        return model_config(folder)
    # The first is read by our quantizer; the second names code that is never run here.
    config = {k: v for k, v in read_config(folder).items() if k not in ("quantization_config", "auto_map")}
    check_config(config, folder)
    return config


def _published(folder: Path) -> Contents:
    found = check_published(folder)
    names = [f"{layer.name}.{name}" for layer in found.layers for name in found.layout.tensors(layer)]
    bits = sum(8 * found.files[name].bytes for name in names)
    return Contents(*_dense(found.model), {path for layer in found.layers for path in layer.rows}, bits)


def _ours(folder: Path, config: dict[str, Any]) -> Contents:
    settings, files = QuipConfig(**read_config(folder)["quantization_config"]), read_all(weight_files(folder))
    model = build_checked(config, stored=files)
    layers, parameters = _dense(model)
    place_packed(model, settings)
    check_tensors(model, folder, files)
    modules = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    packed = [module for module in modules if not isinstance(module, QuantizedHead)]
    bits = sum(8 * tensor.nbytes for layer in packed for tensor in layer.tensors().values())
    parts = {part for parts in settings.layer_parts().values() for part in parts}
    embedding = model.get_input_embeddings()
    outer = embedding.bits_per_weight if isinstance(embedding, QuantizedEmbedding) else None
    return Contents(layers, parameters, parts, bits, outer)


def _dense(model: PreTrainedModel) -> tuple[list[LinearLayer], int]:
    """Linear layers of a dense model, and its parameters; a tied head counts once."""
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    parameters = sum(tensor.numel() for name, tensor in model.state_dict().items() if name not in tied)
    return linear_layers(*decoder_blocks(model)), parameters
