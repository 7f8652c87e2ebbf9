"""Random damage to config.json and to safetensors headers: a named error or a model, never another exception."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model

from quip_engine.errors import QuipError
from quip_engine.probe import headers
from quip_engine.probe.names import check_weights
from quip_engine.probe.settings import check_config

ROUNDS = 150  # 3000 of each were tried once
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 32, 10**6, 10**18, -(10**30), 1.5, float("nan"), float("inf")),
    *("", "x", "gelu", "float32", [], {}, [1, 2], [None], {"a": 1}),
    *(["BertModel"], [0, 1], {"full_attention": {"rope_type": "foo"}}, {"sliding_attention": {"type": ["x"]}}),
    *({"rope_type": "llama3"}, {"rope_type": "yarn", "factor": "x"}, {"rope_type": "linear", "factor": 0}),
]
KEYS = [
    *("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "layer_types", "sliding_window"),
    *("quantization_config", "dtype", "torch_dtype", "attn_implementation", "model_type", "tie_word_embeddings"),
    *("num_labels", "id2label", "pruned_heads", "is_encoder_decoder", "text_config", "sub_configs", "attribute_map"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "architectures", "mlp_only_layers", "head_dim"),
    *("to_dict", "save_pretrained", "get_text_config", "__class__", "__dict__", "transformers_version"),
]


def outcome(call: Any) -> str:
    try:
        call()
    except QuipError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "qwen3_moe", "bert"])
def test_mutated_configs(tmp_path: Path, family: str) -> None:
    good, generator = tiny_model(tmp_path, family), random.Random(0)
    config = json.loads((good / "config.json").read_text())
    tensors = headers.read_all([good / "model.safetensors"])

    def check(changed: dict[str, Any]) -> None:
        check_config(changed, good)
        check_weights(changed, tensors)

    codes = set()
    for _ in range(ROUNDS):
        changed = copy.deepcopy(config)
        for _ in range(generator.choice([1, 1, 2, 3])):
            changed[generator.choice([*config, *KEYS])] = generator.choice(VALUES)
        codes.add(outcome(lambda changed=changed: check(changed)))
    assert {"ok", "BAD_CONFIG_VALUE"} <= codes


def test_mutated_headers(good: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    data = (good / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    config = json.loads((good / "config.json").read_text())
    path = tmp_path / "model.safetensors"
    codes = set()
    for _ in range(ROUNDS):
        changed = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 5])):
            changed[generator.randrange(size)] = generator.randrange(256)
        path.write_bytes(changed)
        codes.add(outcome(lambda: check_weights(config, headers.read_all([path]))))
    assert {"BAD_SAFETENSORS", "TENSOR_MISSING"} <= codes


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 16, (2).to_bytes(8, "little") + b"{}"])
def test_small_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert outcome(lambda: headers.read_header(path)) in ("ok", "SHARD_EMPTY", "BAD_SAFETENSORS")
