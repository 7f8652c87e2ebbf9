"""Every wrong folder of the table gets its code in under two seconds, with nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from breaking import (
    BACKTRACKS,
    EXPANDS,
    INDEX,
    POINTER,
    WEIGHTS,
    Break,
    both,
    config,
    cut,
    header,
    index,
    instead,
    remove,
    shard,
    tensors,
    tokenizer,
    write,
)
from helpers import VOCABULARY, processor_time, tiny_model

from quip_engine.errors import CATALOGUE, QuipError
from quip_engine.probe import probe
from quip_engine.probe.names import check_weights  # noqa: F401 - imports transformers before the clock starts

SECONDS = 2.0  # of processor time for one answer, child included; 0.1 measured for a good tiny folder
TOO_MANY = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_001)})
ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [%d, %d]}'
NO_CHAT = "NOT_A_CHAT_MODEL"

BROKEN: list[tuple[str, Break, str]] = [
    # config.json
    ("no config", remove("config.json"), "NO_CONFIG"),
    ("config cut short", write("config.json", '{"model_type": "llama",\n"hidden'), "BAD_CONFIG"),
    ("config is a list", write("config.json", "[]"), "BAD_CONFIG"),
    ("config is binary", write("config.json", b"\xff\xfe\x00"), "BAD_CONFIG"),
    ("config nested deeply", write("config.json", "[" * 100_000), "BAD_CONFIG"),
    ("config of 5 MB", config(padding="x" * 5 * 2**20), "BAD_CONFIG"),
    ("config is a placeholder", write("config.json", POINTER), "LFS_POINTER"),
    ("no model type", config(model_type=None), "NO_MODEL_TYPE"),
    ("model type is a number", config(model_type=3), "NO_MODEL_TYPE"),
    ("unknown family", config(model_type="foo", architectures=["FooForCausalLM"]), "UNSUPPORTED_ARCH"),
    ("other experts", config(model_type="gpt_oss", architectures=["GptOssForCausalLM"]), "UNSUPPORTED_ARCH"),
    ("pictures", config(model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"]), "UNSUPPORTED_ARCH"),
    ("encoder", config(model_type="roberta", architectures=["RobertaModel"]), "NOT_A_CHAT_MODEL"),
    ("classifying encoder", config(model_type="bert", architectures=["BertForSequenceClassification"]), NO_CHAT),
    ("decoding encoder", config(model_type="bert", architectures=["BertLMHeadModel"]), "NOT_A_CHAT_MODEL"),
    ("classifier", config(architectures=["LlamaForSequenceClassification"]), "NOT_A_CHAT_MODEL"),
    ("own code", config(model_type="mine", auto_map={"AutoModel": "modeling.Mine"}), "CUSTOM_CODE"),
    ("code beside a known family", config(auto_map={"AutoModel": "modeling.Mine"}), "UNSAFE_CONFIG"),
    ("kernel from the hub", config(_attn_implementation="evil/kernel"), "UNSAFE_CONFIG"),
    ("kernel, internal key", config(_attn_implementation_internal="evil/kernel"), "UNSAFE_CONFIG"),
    ("kernel, nested", config(extra=[{"kernel_config": {"a": "evil/kernel"}}]), "UNSAFE_CONFIG"),
    ("weights elsewhere", config(transformers_weights="../other.safetensors"), "UNSAFE_CONFIG"),
    ("gptq", config(quantization_config={"quant_method": "gptq", "bits": 4}), "ALREADY_QUANTIZED"),
    ("unknown method", config(quantization_config={"quant_method": "zzz"}), "ALREADY_QUANTIZED"),
    ("mlx", config(quantization={"group_size": 64, "bits": 4}), "ALREADY_QUANTIZED"),
    ("quip-sharp", config(quip_params={"codebook": "E8P12"}), "ALREADY_QUANTIZED"),
    ("our own", config(quantization_config={"quant_method": "quip"}, auto_map={"A": "b.C"}), "OWN_OUTPUT"),
    ("negative layers", config(num_hidden_layers=-1), "BAD_CONFIG_VALUE"),
    ("a million layers", config(num_hidden_layers=10**6), "BAD_CONFIG_VALUE"),
    ("heads do not divide", config(num_attention_heads=5, head_dim=None), "BAD_CONFIG_VALUE"),
    ("key heads do not divide", config(num_key_value_heads=3), "BAD_CONFIG_VALUE"),
    ("huge vocabulary", config(vocab_size=10**9), "BAD_CONFIG_VALUE"),
    ("a name for each of 10^18 labels", config(num_labels=10**18), "BAD_CONFIG_VALUE"),
    ("width is text", config(hidden_size="32"), "BAD_CONFIG_VALUE"),
    ("width is true", config(hidden_size=True), "BAD_CONFIG_VALUE"),
    ("unknown dtype", config(dtype="int3"), "BAD_CONFIG_VALUE"),
    ("unknown activation", config(hidden_act="jump"), "BAD_CONFIG_VALUE"),
    ("rope theta 0", config(rope_parameters={"rope_type": "default", "rope_theta": 0.0}), "BAD_CONFIG_VALUE"),
    ("rope is text", config(rope_parameters="default"), "BAD_CONFIG_VALUE"),
    ("key of a method", config(get_text_config=1), "BAD_CONFIG_VALUE"),
    ("unknown rope", config(rope_parameters={"rope_type": "foo", "rope_theta": 1e4}), "ROPE_UNSUPPORTED"),
    ("unknown rope, old key", config(rope_scaling={"type": "foo", "factor": 2.0}), "ROPE_UNSUPPORTED"),
    # kind of weights
    ("pickle", instead("pytorch_model.bin"), "PICKLE_ONLY"),
    ("gguf", instead("model.gguf"), "WRONG_FORMAT"),
    ("gguf alone", both(instead("model.gguf"), remove("config.json")), "WRONG_FORMAT"),
    ("onnx", instead("model.onnx"), "WRONG_FORMAT"),
    ("adapter", both(instead("adapter_model.safetensors"), write("adapter_config.json", "{}")), "WRONG_FORMAT"),
    ("adapter beside weights", write("adapter_config.json", '{"base_model_name_or_path": "a/b"}'), "WRONG_FORMAT"),
    ("no weights", remove(WEIGHTS), "NO_WEIGHTS"),
    ("shards without index", instead("model-00001-of-00002.safetensors"), "BAD_INDEX"),
    # safetensors
    ("empty file", write(WEIGHTS, b""), "SHARD_EMPTY"),
    ("placeholder", write(WEIGHTS, POINTER), "LFS_POINTER"),
    ("one byte short", cut(131783), "SHARD_TRUNCATED"),
    ("cut in the header", cut(100), "SHARD_TRUNCATED"),
    ("seven bytes", cut(7), "BAD_SAFETENSORS"),
    ("no safetensors", write(WEIGHTS, b"PK\x03\x04" * 100), "BAD_SAFETENSORS"),
    ("header of 40 MB", write(WEIGHTS, (40 << 20).to_bytes(8, "little") + b"{}"), "BAD_SAFETENSORS"),
    ("too many tensors", header(TOO_MANY), "BAD_SAFETENSORS"),
    ("header is a list", header("[]"), "BAD_SAFETENSORS"),
    ("header nested deeply", header("[" * 50_000), "BAD_SAFETENSORS"),
    (
        "unknown dtype in header",
        header('{"a": {"dtype": "F33", "shape": [], "data_offsets": [0, 4]}}'),
        "BAD_SAFETENSORS",
    ),
    ("shape is text", header('{"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}'), "BAD_SAFETENSORS"),
    ("negative offset", header('{"a": ' + ENTRY % (-4, 0) + "}"), "BAD_SAFETENSORS"),
    ("bytes of another shape", header('{"a": ' + ENTRY % (0, 8) + "}", bytes(8)), "BAD_SAFETENSORS"),
    ("overlap", header('{"a": ' + ENTRY % (0, 4) + ', "b": ' + ENTRY % (0, 4) + "}", bytes(4)), "BAD_SAFETENSORS"),
    ("gap", header('{"a": ' + ENTRY % (4, 8) + "}", bytes(8)), "BAD_SAFETENSORS"),
    ("bytes left over", header('{"a": ' + ENTRY % (0, 4) + "}", bytes(8)), "BAD_SAFETENSORS"),
    ("name twice", header('{"a": ' + ENTRY % (0, 4) + ', "a": ' + ENTRY % (0, 4) + "}", bytes(4)), "BAD_SAFETENSORS"),
    # tensors against config.json
    ("tensor missing", tensors(lambda t: t.pop("model.norm.weight")), "TENSOR_MISSING"),
    ("one block more in config", config(num_hidden_layers=3), "TENSOR_MISSING"),
    ("999 blocks more in config", config(num_hidden_layers=1000), "TENSOR_MISSING"),
    ("one block less in config", config(num_hidden_layers=1), "TENSOR_EXTRA"),
    ("other width", config(intermediate_size=64), "SHAPE_MISMATCH"),
    ("other vocabulary", config(vocab_size=VOCABULARY + 1), "SHAPE_MISMATCH"),
    ("head missing", tensors(lambda t: t.pop("lm_head.weight")), "HEAD_MISSING"),
    ("int8", tensors(lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)})), "DTYPE_UNSUPPORTED"),
    (
        "float8",
        tensors(lambda t: t.update({"model.norm.weight": torch.ones(32).to(torch.float8_e4m3fn)})),
        "DTYPE_UNSUPPORTED",
    ),
    ("same tensor twice", tensors(lambda t: t.update({"norm.weight": torch.ones(32)})), "TENSOR_DUPLICATE"),
    # tokenizer
    ("no tokenizer", remove("tokenizer.json"), "NO_TOKENIZER"),
    ("tokenizer is a placeholder", write("tokenizer.json", POINTER), "LFS_POINTER"),
    ("tokenizer is no JSON", write("tokenizer.json", "{"), "BAD_TOKENIZER"),
    ("tokenizer is empty", write("tokenizer.json", ""), "BAD_TOKENIZER"),
    ("tokenizer expands", tokenizer(normalizer=EXPANDS), "BAD_TOKENIZER"),
    ("tokenizer backtracks", tokenizer(pre_tokenizer=BACKTRACKS), "BAD_TOKENIZER"),
    ("tokenizer settings are no JSON", write("tokenizer_config.json", "{"), "BAD_TOKENIZER"),
    ("tokenizer of own code", write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "a.B"}}'), "CUSTOM_CODE"),
    (
        "more tokens than rows",
        both(
            tensors(
                lambda t: t.update({n: t[n][:250].clone() for n in ("model.embed_tokens.weight", "lm_head.weight")})
            ),
            config(vocab_size=250, bos_token_id=0, eos_token_id=0),
        ),
        "VOCAB_MISMATCH",
    ),
]

BROKEN_SHARDS: list[tuple[str, Break, str]] = [
    ("shard missing", lambda folder: shard(1)(folder).unlink(), "SHARD_MISSING"),
    ("index is no JSON", write(INDEX, "{"), "BAD_INDEX"),
    ("index without a map", write(INDEX, "{}"), "BAD_INDEX"),
    ("index map is a list", write(INDEX, '{"weight_map": ["a"]}'), "BAD_INDEX"),
    ("index map of numbers", write(INDEX, '{"weight_map": {"a": 1}}'), "BAD_INDEX"),
    ("index outside", index(lambda m: m.update(a="../good/model.safetensors")), "UNSAFE_INDEX"),
    ("index absolute", index(lambda m: m.update(a="/tmp/model.safetensors")), "UNSAFE_INDEX"),
    ("index windows path", index(lambda m: m.update(a="..\\x.safetensors")), "UNSAFE_INDEX"),
    ("same shard twice", lambda folder: shutil.copy(shard(0)(folder), shard(1)(folder)), "TENSOR_DUPLICATE"),
    ("shard is empty", lambda folder: shard(0)(folder).write_bytes(b""), "SHARD_EMPTY"),
    ("shard is a placeholder", lambda folder: shard(0)(folder).write_text(POINTER), "LFS_POINTER"),
]


def refused(folder: Path, code: str) -> QuipError:
    """Probe a folder that has to be refused with ``code``, in time, and left as it is."""
    before = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir())
    started = processor_time()
    with pytest.raises(QuipError) as caught:
        probe(str(folder))
    assert processor_time() - started < SECONDS
    assert (caught.value.code, code in CATALOGUE) == (code, True), caught.value.message
    assert caught.value.message and caught.value.hint
    assert sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()) == before
    return caught.value


@pytest.mark.parametrize(("name", "damage", "code"), BROKEN, ids=[case[0] for case in BROKEN])
def test_broken_folder(good: Path, tmp_path: Path, name: str, damage: Break, code: str) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    damage(folder)
    refused(folder, code)


def fuse(found: dict[str, torch.Tensor]) -> None:
    """Experts as a model has them in memory, which is no format of files."""
    for block in range(2):
        prefix = f"model.layers.{block}.block_sparse_moe.experts"
        weights = [
            [found.pop(f"{prefix}.{expert}.{name}.weight") for expert in range(4)] for name in ("w1", "w3", "w2")
        ]
        gate, up, down = (torch.stack(each) for each in weights)
        found[f"model.layers.{block}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], 1)
        found[f"model.layers.{block}.mlp.experts.down_proj"] = down


BROKEN_FAMILIES: list[tuple[str, str, Break, str]] = [
    ("more experts in config", "mixtral", config(num_local_experts=5), "TENSOR_MISSING"),
    ("999 experts more in config", "qwen3_moe", config(num_experts=1000, num_local_experts=None), "TENSOR_MISSING"),
    ("fewer experts in config", "mixtral", config(num_local_experts=3), "TENSOR_EXTRA"),
    ("more chosen than there are", "mixtral", config(num_experts_per_tok=5), "BAD_CONFIG_VALUE"),
    ("no experts", "mixtral", config(num_local_experts=0), "BAD_CONFIG_VALUE"),
    ("a million modules", "mixtral", config(num_local_experts=4000, num_hidden_layers=1000), "BAD_CONFIG_VALUE"),
    (
        "an expert is missing",
        "mixtral",
        tensors(lambda t: t.pop("model.layers.1.block_sparse_moe.experts.2.w3.weight")),
        "TENSOR_MISSING",
    ),
    ("experts in one tensor", "mixtral", tensors(fuse), "WRONG_FORMAT"),
    ("other expert width", "qwen3_moe", config(moe_intermediate_size=32), "SHAPE_MISMATCH"),
    (
        "unknown rope of one kind of block",
        "gemma3_text",
        config(rope_parameters={"full_attention": {"rope_type": "foo"}}),
        "ROPE_UNSUPPORTED",
    ),
    (
        "rope is a list",
        "gemma3_text",
        config(rope_parameters={"full_attention": {"rope_type": []}}),
        "ROPE_UNSUPPORTED",
    ),
    ("kinds of blocks", "gemma2", config(layer_types=["full_attention"]), "BAD_CONFIG_VALUE"),
    ("block of an encoder", "bert", config(num_hidden_layers=3), "TENSOR_MISSING"),
    ("tokens of an encoder", "bert", config(vocab_size=10), "SHAPE_MISMATCH"),
]


@pytest.mark.parametrize(
    ("name", "family", "damage", "code"), BROKEN_FAMILIES, ids=[case[0] for case in BROKEN_FAMILIES]
)
def test_broken_folder_of_a_family(tmp_path: Path, name: str, family: str, damage: Break, code: str) -> None:
    folder = tiny_model(tmp_path, family)
    damage(folder)
    refused(folder, code)


@pytest.mark.parametrize(("name", "damage", "code"), BROKEN_SHARDS, ids=[case[0] for case in BROKEN_SHARDS])
def test_broken_shards(good_shards: Path, tmp_path: Path, name: str, damage: Break, code: str) -> None:
    folder = shutil.copytree(good_shards, tmp_path / "model")
    damage(folder)
    refused(folder, code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "NO_MODEL"),
        ("  ", "NO_MODEL"),
        ("/no/such/folder", "NOT_FOUND"),
        ("no-such-folder", "NOT_FOUND"),
        ("./a/b/c", "NOT_FOUND"),
        ("C:\\models\\llama", "NOT_FOUND"),
        (__file__, "NOT_A_FOLDER"),
        ("a\0b", "BAD_PATH"),
        ("a\nb", "BAD_PATH"),
        ("\udcff/x", "BAD_PATH"),
        ("x" * 5000, "BAD_PATH"),
        ("/" + "x" * 400, "BAD_PATH"),
        ("own er/name", "BAD_HUB_ID"),
        ("a/b/c", "BAD_HUB_ID"),
        ("owner/na--me..", "BAD_HUB_ID"),
        ("https://example.org/a/b", "BAD_HUB_ID"),
    ],
)
def test_what_people_type(text: str, code: str) -> None:
    with pytest.raises(QuipError) as caught:
        probe(text, offline=True)
    assert caught.value.code == code


def test_an_address_suggests_the_id() -> None:
    with pytest.raises(QuipError) as caught:
        probe("https://huggingface.co/owner/some-model/tree/main")
    assert caught.value.code == "BAD_HUB_ID"
    assert "owner/some-model" in caught.value.hint


def test_mistyped_folder_beside_a_real_one(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good.parent.parent)
    with pytest.raises(QuipError) as caught:
        probe(f"{good.parent.name}/tiny-lama")
    assert caught.value.code == "NOT_FOUND"


def test_no_permission(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the suite may run as root, who may read all
    with pytest.raises(QuipError) as caught:
        probe(str(good))
    assert caught.value.code == "NO_PERMISSION"
