"""What several tests need: a tiny random model folder of every supported architecture, and a text to calibrate on."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from quip_engine.files import data_home
from quip_engine.native import library

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "opt", "gpt2", "gemma2", "gemma3_text", "phi3", "gpt_neox"),
    *("mixtral", "qwen3_moe"),
)
EXPERTS = ("mixtral", "qwen3_moe")
ENCODERS = ("bert",)
END = "<|end|>"  # the only token that is not a byte; id 256
VOCABULARY = 264

_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_LLAMA_SHAPE = {**_SHAPE, "num_key_value_heads": 2, "intermediate_size": 48}
# A window shorter than the windows of text that tests use; scores as large as those of a trained model.
_WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA_SHAPE = {**_LLAMA_SHAPE, **_WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_FAMILY_SHAPE: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_SHAPE,
    "mistral": {**_LLAMA_SHAPE, "head_dim": 8},
    "qwen2": {**_LLAMA_SHAPE, "tie_word_embeddings": True},
    "qwen3": {**_LLAMA_SHAPE, "head_dim": 16},
    "opt": {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32, "tie_word_embeddings": True},
    "gpt2": {**_SHAPE, "n_inner": 48, "tie_word_embeddings": True},
    "gemma2": _GEMMA_SHAPE,
    "gemma3_text": _GEMMA_SHAPE,
    "phi3": {**_LLAMA_SHAPE, "sliding_window": 8},
    "gpt_neox": {**_SHAPE, "intermediate_size": 48},
    "mixtral": {**_LLAMA_SHAPE, **_EXPERTS},
    "qwen3_moe": {**_LLAMA_SHAPE, "head_dim": 16, "moe_intermediate_size": 24, **_EXPERTS},
    "bert": {**_SHAPE, "intermediate_size": 48, "tie_word_embeddings": True},
}


def tiny_model(
    tmp_path: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """A folder ``tmp_path / tiny-FAMILY`` with seeded random weights and a byte-level tokenizer.

    ``overrides`` are values of config.json (``num_hidden_layers=24``); ``shard_size`` ("20KB") asks for several files.
    """
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

    path = tmp_path / f"tiny-{family}"
    config = CONFIG_MAPPING[family](**{**_FAMILY_SHAPE[family], **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto = AutoModel if family in ENCODERS else AutoModelForCausalLM
        model = auto.from_config(config, dtype=dtype)
    model.save_pretrained(path, max_shard_size=shard_size)
    write_tokenizer(path)
    return path


def write_tokenizer(path: Path) -> None:
    """Byte-level tokenizer: 256 bytes and ``END``; needs no training and no text."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def made_up_text(words: int, seed: int = 0) -> str:
    """``words`` words of a small made-up language, a blank line after every hundredth."""
    generator = random.Random(seed)
    syllables = ["ba", "lo", "mi", "ren", "sul", "ta", "vo", "ki"]
    text = ["".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(words)]
    return "\n\n".join(" ".join(text[i : i + 100]) for i in range(0, words, 100))


OVERFLOWS = "Q"  # a letter


def overflowing_model(folder: Path, **overrides: Any) -> Path:
    """A model whose first norm overflows wherever ``OVERFLOWS`` is read."""
    from safetensors.torch import load_file, save_file

    model = tiny_model(folder, "opt", tie_word_embeddings=False, **overrides)
    weights = model / "model.safetensors"
    tensors, words = load_file(weights), json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    tensors["model.decoder.embed_tokens.weight"][words[OVERFLOWS]] = 3e38
    save_file(tensors, weights, metadata={"format": "pt"})
    return model


def overflowing_text(path: Path, windows: int, length: int, overflowing: int) -> Path:
    """A .jsonl file that gives so many windows of ``length`` tokens, ``overflowing`` of them with ``OVERFLOWS``."""
    lines = [chr(ord("a") + k) * (length - 1) + (OVERFLOWS if k < overflowing else "z") for k in range(windows)]
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    return path


def processor_time() -> float:
    """Seconds of this process and its ended children: does not depend on what else the machine is doing."""
    return sum(os.times()[:4])


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ``None`` removes the key."""
    record = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), encoding="utf-8")


def share_kernels(home: Path) -> Path:
    """Compiled kernels of this machine serve every data directory: what runs over it starts in seconds."""
    home.mkdir(parents=True, exist_ok=True)
    if library() and not (home / "kernels").exists():
        (home / "kernels").symlink_to(data_home() / "kernels")
    return home


DEGENERATE = ("zero W", "zero H", "rank one H", "dead input", "one row", "one column")


def decaying(m: int, seed: int = 1) -> torch.Tensor:
    """G of gradients in few directions, as those of layers that write to the residual stream: (m, m)."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(4 * m, m, generator=generator) * torch.arange(1, m + 1).pow(-0.7)
    Q = torch.linalg.qr(torch.randn(m, m, generator=generator))[0]
    G = Q @ (g.T @ g) @ Q.T
    return G / G.diagonal().mean()


def random_layer(m: int = 32, n: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """W: (m, n) and the H: (n, n) of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(4 * n, n, generator=generator) @ torch.randn(n, n, generator=generator)
    return torch.randn(m, n, generator=generator) * 0.02, X.T @ X / len(X)


def degenerate_layer(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """W and H with one of the faults of ``DEGENERATE``."""
    W, H = random_layer(*{"one row": (1, 24), "one column": (24, 1)}.get(kind, (16, 24)))
    if kind == "zero W":
        W.zero_()
    elif kind == "zero H":
        H.zero_()
    elif kind == "rank one H":
        H = torch.outer(H[0], H[0])
    elif kind == "dead input":
        H[:, 3] = H[3] = 0
    return W, H
