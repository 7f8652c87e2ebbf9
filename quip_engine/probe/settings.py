"""config.json: can it be read, is it a model we support, does it ask for code, are its numbers possible?

Nothing here imports ``transformers``, and nothing of it sees a config that was not checked here first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quip_engine.errors import fail
from quip_engine.probe.folder import ADAPTER, FOREIGN, read_json, refuse_other_weights
from quip_engine.probe.packing import packing_of

# model_type of config.json -> the name people know. Each is covered by the tests from folder to finished checkpoint.
SUPPORTED = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "opt": "OPT",
    "gpt2": "GPT-2",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "phi3": "Phi-3",
    "gpt_neox": "GPT-NeoX",
    "mixtral": "Mixtral",
    "qwen3_moe": "Qwen3-MoE",
    "bert": "BERT (encoder)",
}
# Those that give states instead of text, and the architectures whose files hold them; a head is left out.
ENCODERS = {"bert": ("BertModel", "BertForMaskedLM")}
MOST_BYTES = 4 * 2**20  # of config.json; the longest have label maps of some hundred kB
MOST_PARTS = 50_000  # transformers copies it many times
# Keys that make transformers fetch or choose code; values that only pick what it has built in are harmless.
LOADS_CODE = re.compile(r"_*(attn|experts)_implementation|.*kernel|auto_map$|custom_|transformers_weights$")
HARMLESS = (None, True, False, "", "eager", "sdpa")
# Tasks that are no text generation, by class name, and families that only have such classes.
OTHER_TASK = re.compile(r"For(?=[A-Z])(?!CausalLM|ConditionalGeneration)\w+$")
NO_TEXT = frozenset(
    {
        *("albert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"),
        *("clip", "convnext", "dinov2", "layoutlm", "siglip", "swin", "vit", "hubert", "wav2vec2", "xlm-roberta"),
    }
)
# The largest value of each size in config.json: well above every published model, far below what would hang a build.
LARGEST = {
    "hidden_size": 2**17,
    "n_embd": 2**17,
    "word_embed_proj_dim": 2**17,
    "intermediate_size": 2**20,
    "ffn_dim": 2**20,
    "n_inner": 2**20,
    "num_hidden_layers": 1000,
    "n_layer": 1000,
    "num_attention_heads": 4096,
    "n_head": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 2**14,
    "vocab_size": 10**7,
    "max_position_embeddings": 10**9,
    "n_positions": 10**9,
    "sliding_window": 10**9,
    "num_labels": 10**5,  # transformers makes a name for each
    "type_vocab_size": 10**5,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "num_experts_per_tok": 4096,
    "moe_intermediate_size": 2**20,
}
MAY_BE_NULL = frozenset({"word_embed_proj_dim", "n_inner", "num_key_value_heads", "head_dim", "sliding_window"})
MOST_EXPERTS = 70_000  # of all blocks: each is three modules, and three names in the files
FLOATS = ("float32", "bfloat16", "float16", "float64", "auto", None)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder as an object."""
    path = folder / "config.json"
    if not path.is_file():
        names = [p.name for p in folder.iterdir()]
        if any(name.lower().endswith(tuple(FOREIGN)) or name == ADAPTER for name in names):
            refuse_other_weights(names, str(folder))
        fail("NO_CONFIG", path=folder)
    try:
        config = read_json(path, MOST_BYTES, MOST_PARTS)
    except json.JSONDecodeError as error:
        fail("BAD_CONFIG", where=f" (line {error.lineno})", details=str(error))
    except ValueError as error:
        fail("BAD_CONFIG", where="", details=str(error))
    if not isinstance(config, dict):
        fail("BAD_CONFIG", where=" (it is not an object)")
    return config


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Refuse a config that is already quantized, not supported, unsafe or absurd, in this order."""
    _refuse_quantized(config, folder)
    _refuse_architecture(config)
    _refuse_code(config)
    _refuse_numbers(config)


def check_defaults(folder: Path) -> None:
    """Refuse a generation_config.json that transformers, which reads it unasked, should better not. ``LOAD_FAILED``."""
    path = folder / "generation_config.json"
    try:
        if path.is_file() and not isinstance(read_json(path, MOST_BYTES, MOST_PARTS), dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        fail("LOAD_FAILED", path=folder, reason=f"{path.name}: {error}")


def check_use(config: dict[str, Any], *, encoder: bool) -> None:
    """Refuse an encoder where text is to be written (``NOT_A_CHAT_MODEL``), and the reverse (``NOT_AN_ENCODER``)."""
    model_type = config.get("model_type")
    if model_type in SUPPORTED and (model_type in ENCODERS) != encoder:
        fail("NOT_AN_ENCODER" if encoder else "NOT_A_CHAT_MODEL", architecture=architecture_of(config))


def runs_with(config: dict[str, Any]) -> list[str]:
    """Where a model of this config.json is of use as it is: commands and pages."""
    return ["`embed`"] if config.get("model_type") in tuple(ENCODERS) else ["`generate`", "Compare"]


def architecture_of(config: dict[str, Any]) -> str:
    """Class name, or the model type where config.json names no class."""
    names = config.get("architectures")
    named = isinstance(names, list) and names and isinstance(names[0], str)
    return str(names[0] if named and names else config.get("model_type"))[:80]


def expert_key(config: dict[str, Any]) -> str:
    """Where a config keeps the number of experts of a block."""
    return "num_local_experts" if "num_local_experts" in config else "num_experts"


def _refuse_quantized(config: dict[str, Any], folder: Path) -> None:
    if packing := packing_of(config, folder):
        runs = f"it runs packed as it is, with {' and '.join(runs_with(config))}"
        if packing.ours:
            fail("OWN_OUTPUT", path=f"{folder} ({packing}; {runs})")
        fail("ALREADY_QUANTIZED", method=f"{packing}; {runs}")
    for key in ("quantization_config", "compression_config", "quantization"):
        settings = config.get(key)
        if not settings:
            continue
        known = settings if isinstance(settings, dict) else {}
        method = known.get("quant_method", "MLX" if key == "quantization" else "an unknown method")
        bits = f"{known['bits']}-bit " if isinstance(known.get("bits"), int | float) else ""
        fail("ALREADY_QUANTIZED", method=f"{bits}{str(method)[:80]}")


def _refuse_architecture(config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        fail("NO_MODEL_TYPE")
    architecture = architecture_of(config)
    if model_type in ENCODERS and architecture in (*ENCODERS[model_type], model_type):
        return
    if model_type in NO_TEXT or model_type in ENCODERS or OTHER_TASK.search(architecture):
        fail("NOT_A_CHAT_MODEL", architecture=architecture)
    if model_type in SUPPORTED:
        return
    if config.get("auto_map"):
        fail("CUSTOM_CODE")
    reason = f"its blocks (model_type {model_type[:80]!r}) are not among those that were tested"
    fail("UNSUPPORTED_ARCH", architecture=architecture, reason=reason, supported=", ".join(SUPPORTED.values()))


def _refuse_code(config: dict[str, Any]) -> None:
    for key, value in _entries(config):
        if LOADS_CODE.match(key) and value not in (*HARMLESS, {}, []):
            fail("UNSAFE_CONFIG", key=key[:80], value=str(value)[:80])


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON object and of all objects in it."""
    waiting: list[Any] = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _refuse_numbers(config: dict[str, Any]) -> None:
    for key, largest in LARGEST.items():
        value = config.get(key)
        if key not in config or (value is None and key in MAY_BE_NULL):
            continue
        if type(value) is not int or not 1 <= value <= largest:
            _bad_value(key, value, f"a whole number from 1 to {largest} is possible")
    hidden = config.get("hidden_size", config.get("n_embd"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    if hidden and heads and not config.get("head_dim") and hidden % heads:
        _bad_value("num_attention_heads", heads, f"it has to divide the width {hidden}")
    shared = config.get("num_key_value_heads")
    if heads and shared and heads % shared:
        _bad_value("num_key_value_heads", shared, f"it has to divide the {heads} heads")
    chosen, experts = (config.get(key) for key in ("num_experts_per_tok", expert_key(config)))
    if chosen and experts and chosen > experts:
        _bad_value("num_experts_per_tok", chosen, f"there are {experts} experts")
    if (experts or 0) * (config.get("num_hidden_layers") or 0) > MOST_EXPERTS:
        _bad_value(expert_key(config), experts, f"up to {MOST_EXPERTS} in all blocks together")
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in FLOATS:
            _bad_value(key, config[key], "float32, bfloat16 and float16 are possible")


def _bad_value(key: str, value: object, allowed: str) -> None:
    fail("BAD_CONFIG_VALUE", key=key, value=str(value)[:80], allowed=allowed)
