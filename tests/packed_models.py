"""Packed checkpoints of tiny models, and what to compare them with."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import ENCODERS, tiny_model
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from quip_engine.architecture import decoder_blocks, linear_modules, weight_of
from quip_engine.checkpoint import assemble, quantization_config, write_tensors
from quip_engine.config import RecipeConfig
from quip_engine.experts import unfuse
from quip_engine.layer import quantize_weight
from quip_engine.linear import QuantizedLinear
from quip_engine.methods import resolve

IDS = torch.arange(1, 21)[None]


def packed(tmp_path: Path, family: str = "llama", method: str = "quip#", **overrides) -> tuple[Path, PreTrainedModel]:
    """A checkpoint of a tiny model, and the same model with its layers replaced by what the codes stand for."""
    source = tiny_model(tmp_path, family, **overrides)
    dense = (AutoModel if family in ENCODERS else AutoModelForCausalLM).from_pretrained(source).eval()
    unfuse(dense)
    prefix, blocks = decoder_blocks(dense)
    recipe, formats, stored = resolve(RecipeConfig(method, 2)), {}, {}
    for name, module in linear_modules(blocks).items():
        W = weight_of(module)
        X = torch.randn(4 * W.shape[1], W.shape[1], generator=torch.Generator().manual_seed(len(formats)))
        quantized = quantize_weight(W, X.T @ X / len(X), recipe, seed=len(formats))
        path = f"{prefix}.{name}"
        formats[path] = quantized.format
        stored |= {f"{path}.{key}": tensor for key, tensor in quantized.tensors.items()}
        W.data.copy_(quantized.dequantize())
    replaced = {f"{path}.weight" for path in formats} | set(dense.all_tied_weights_keys)
    kept = {name: tensor for name, tensor in dense.state_dict().items() if name not in replaced}
    shards = [tmp_path / "kept", tmp_path / "packed"]
    write_tensors(shards[0], kept)
    write_tensors(shards[1], stored)
    config = quantization_config(method=method, bits=2, recipe=recipe, seed=0, layers=formats, skipped={})
    out = tmp_path / f"packed-{family}"
    assemble(source, out, shards, config, {"model": family, "bits_per_weight": 2.5})
    return out, dense


def load(folder: Path, **options) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def same_tensors(a: PreTrainedModel, b: PreTrainedModel) -> bool:
    first, second = a.state_dict(), b.state_dict()
    same = all(torch.equal(t, second[name]) and t.dtype == second[name].dtype for name, t in first.items())
    return same and first.keys() == second.keys()


def packed_layers(model: PreTrainedModel) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def stored_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The stored tensors of all packed layers by name."""
    return {f"{name}.{key}": t for name, layer in packed_layers(model).items() for key, t in layer.tensors().items()}
