"""Models made from seeds, in memory or as folders: Llama-shaped, dense in bfloat16 or packed with codes at random.

With experts they are Qwen3's mixture, whose files name each expert by itself.

How much memory a model takes, and how long a token, does not depend on what its weights say. A packed folder is put
together as a run would (``checkpoint``), without the hours of one; models of folders are never whole in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen3MoeConfig

from quip_engine import files
from quip_engine.architecture import build_on_meta, decoder_blocks, linear_modules, weight_of
from quip_engine.checkpoint import INDEX, assemble, quantization_config, write_tensors
from quip_engine.codebooks import Codebook
from quip_engine.codebooks.e8p import E8P
from quip_engine.commands.bench.inference import packed_linear
from quip_engine.commands.bench.layers import DEVIATION, random_layer
from quip_engine.layer import LayerFormat, stored_bits
from quip_engine.linear import QuantizedLinear
from quip_engine.methods.registry import Recipe
from quip_engine.products import Packed
from quip_engine.rounding.ldlq import LDLQ

TOKENIZER = Path(__file__).parents[3] / "assets" / "demo-model"
HEAD = 64  # width of an attention head
CHOSEN = 2  # experts of each token


@dataclass(frozen=True)
class Shape:
    """Of a Llama model with grouped heads, whose embedding is its head, too."""

    width: int = 2048
    inner: int = 5632
    blocks: int = 16
    vocabulary: int = 32000
    experts: int = 0  # each with an MLP; 0: a single MLP

    @property
    def block_weights(self) -> int:
        attention = 2 * self.width**2 + 2 * self.width * self._grouped * HEAD
        router = self.experts * self.width + 2 * HEAD if self.experts else 0  # and the norms of queries and keys
        return attention + router + max(1, self.experts) * 3 * self.width * self.inner + 2 * self.width

    @property
    def tiny(self) -> Shape:
        """A model that costs what Python, torch and transformers cost: all that grows with the model is left out."""
        return replace(self, width=HEAD, inner=2 * HEAD, blocks=1, vocabulary=1024)

    @property
    def _grouped(self) -> int:
        return max(1, self.width // HEAD // 4)

    def config(self) -> PretrainedConfig:
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        common: dict[str, Any] = {
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.width // HEAD,
            "num_key_value_heads": self._grouped,
            "head_dim": HEAD,
            "vocab_size": max(self.vocabulary, len(tokenizer)),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        }
        if not self.experts:
            return LlamaConfig(**common, architectures=["LlamaForCausalLM"])
        mixture = {"num_experts": self.experts, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": self.inner}
        return Qwen3MoeConfig(**common, **mixture, architectures=["Qwen3MoeForCausalLM"])


@dataclass(frozen=True)
class Part:
    """What is drawn and written together: a block, or all that is outside of blocks."""

    name: str
    packed: dict[str, QuantizedLinear]  # by module path
    dense: dict[str, Tensor]  # by name

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return self.dense | {
            f"{path}.{name}": tensor for path, layer in self.packed.items() for name, tensor in layer.tensors().items()
        }


def random_model(shape: Shape, codebook: Codebook | None = None, seed: int = 0) -> PreTrainedModel:
    """A model in memory: bfloat16, with a codebook its linear layers packed with codes at random."""
    model = build_on_meta(shape.config(), torch.bfloat16)
    for part in _parts(model, codebook, seed):
        for path, layer in part.packed.items():
            model.set_submodule(path, layer)
        model.load_state_dict(part.dense, strict=False, assign=True)
    model.tie_weights()
    return model.requires_grad_(False)


def write_dense(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A model of normal weights in bfloat16, a file for each block and one for the rest; returns ``folder``."""
    places: dict[str, str] = {}
    for part in _parts(_source(folder, shape), None, seed):
        write_tensors(folder / f"{part.name}.safetensors", part.dense)
        places |= dict.fromkeys(part.dense, f"{part.name}.safetensors")
    files.write_json(folder / INDEX, {"metadata": {}, "weight_map": places})
    return folder


def write_packed(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """The same with E8P layers of random codes in its blocks, as ``quip#`` makes them of 2 bits; returns ``folder``."""
    work = folder.with_name(f"{folder.name}-parts")
    formats: dict[str, LayerFormat] = {}
    bits, weights, shards = 0, 0, []
    for part in _parts(_source(work, shape), E8P(), seed):
        for path, layer in part.packed.items():
            formats[path], bits = layer.format, bits + stored_bits(layer.tensors())
            weights += layer.in_features * layer.out_features
        shards.append(work / f"{part.name}.safetensors")
        write_tensors(shards[-1], part.tensors())
    first = next(iter(formats.values()))
    recipe = Recipe(first.transform, first.codebook, LDLQ())
    entry = quantization_config(method="quip#", bits=2, recipe=recipe, seed=seed, layers=formats, skipped={})
    assemble(work, folder, shards, entry, {"model": "random", "bits_per_weight": bits / weights, "layers": []})
    shutil.rmtree(work)
    return folder


def _source(folder: Path, shape: Shape) -> PreTrainedModel:
    """The folder with configuration and tokenizer, and the model on meta."""
    folder.mkdir(parents=True)
    config = shape.config()
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return build_on_meta(config, torch.bfloat16)


def _parts(model: PreTrainedModel, codebook: Codebook | None, seed: int) -> Iterator[Part]:
    """Draw what a model (on meta) needs. Layers of one shape get copies of the same codes, some of which take long."""
    generator = torch.Generator().manual_seed(seed)
    prefix, blocks = decoder_blocks(model)
    shapes: dict[str, torch.Size] = {}
    codes: dict[torch.Size, Packed] = {}
    if codebook:
        shapes = {f"{prefix}.{path}": weight_of(module).shape for path, module in linear_modules(blocks).items()}
        for shape in dict.fromkeys(shapes.values()):
            m, n = shape
            codes[shape] = random_layer(codebook, m, n, generator, spent=m + n)
    for name, keys in _keys(model).items():
        paths = {key: key.removesuffix(".weight") for key in keys}
        packed = {path: packed_linear(codes[shapes[path]]) for path in paths.values() if path in shapes}
        dense = {key: _drawn(model.get_parameter(key), generator) for key, path in paths.items() if path not in packed}
        yield Part(name, packed, dense)


def _keys(model: PreTrainedModel) -> dict[str, list[str]]:
    """Names of tensors by the part they are in; a tied head is stored once."""
    prefix, blocks = decoder_blocks(model)
    keys = [key for key in model.state_dict() if key != "lm_head.weight"]
    parts = {f"block-{i:05}": [key for key in keys if key.startswith(f"{prefix}.{i}.")] for i in range(len(blocks))}
    return parts | {"outside": [key for key in keys if not key.startswith(f"{prefix}.")]}


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers for a matrix, ones for the scales of a norm; in the dtype of ``like``."""
    values = torch.empty(like.shape, dtype=like.dtype)
    return values.fill_(1) if like.dim() == 1 else values.normal_(0, DEVIATION, generator=generator)
