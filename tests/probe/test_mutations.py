"""Damaged model files: an error with a code, or a model, never another exception. In full: tests/soak/mutations.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import edit_json, tiny_model
from mutators import JSON, SAFETENSORS, mutated

from quip_engine.errors import QuipError
from quip_engine.generate import end_tokens
from quip_engine.loading import checked_folder, load_model, load_tokenizer
from quip_engine.probe import headers, probe
from quip_engine.probe.names import check_weights
from quip_engine.probe.settings import check_config, read_config
from quip_engine.prompts import write

ROUNDS = 150
COMMAND = Path(__file__).parents[1] / "soak" / "mutations.py"
NESTED_LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except QuipError as error:
        return error.code
    return "ok"


def header_file(folder: Path, header: bytes, data: bytes = b"") -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "qwen3_moe", "bert"])
def test_mutated_configs(tmp_path: Path, family: str) -> None:
    folder = tiny_model(tmp_path, family)
    path, tensors = folder / "config.json", headers.read_all([folder / "model.safetensors"])
    good, codes = path.read_bytes(), set()

    def check() -> None:
        config = read_config(folder)
        check_config(config, folder)
        check_weights(config, tensors)

    for number in range(ROUNDS):
        path.write_bytes(mutated({kind: JSON[kind] for kind in ("values", "keys", "bits")}, good, number)[1])
        codes.add(outcome(check))
    assert {"ok", "BAD_CONFIG", "BAD_CONFIG_VALUE"} <= codes


def test_mutated_headers(good: Path, tmp_path: Path) -> None:
    data, config = (good / "model.safetensors").read_bytes(), read_config(good)
    path, codes = tmp_path / "model.safetensors", set()
    kinds = {kind: mutator for kind, mutator in SAFETENSORS.items() if "huge" not in kind}
    for number in range(ROUNDS):
        path.write_bytes(mutated(kinds, data, number)[1])
        codes.add(outcome(lambda: check_weights(config, headers.read_all([path]))))
    assert {"ok", "BAD_SAFETENSORS", "SHARD_TRUNCATED", "TENSOR_MISSING", "SHAPE_MISMATCH"} <= codes


def test_every_promise_holds() -> None:
    ended = subprocess.run([sys.executable, str(COMMAND), "--fast"], capture_output=True, text=True, check=False)
    rows = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else []
    assert len(rows) == 3 and all(row["held"] for row in rows), ended.stderr[-3000:]


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 16, (2).to_bytes(8, "little") + b"{}"])
def test_small_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert outcome(lambda: headers.read_header(path)) in ("ok", "SHARD_EMPTY", "BAD_SAFETENSORS")


# -- what seeds have found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__":{"format":["pt"]}}',  # read by us, refused by the library at the first block
        b'{"__metadata__":{"format":1e30}}',
        b'{"__metadata__":["pt"]}',
        b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":NaN}}',
        b'{"__metadata__":{"x":[' + b",".join([b"[]"] * 1_000_000) + b"]}}",  # 30 MB of these took a gigabyte
    ],
    ids=["list", "number", "no object", "half a character", "other fields", "many parts"],
)
def test_headers_that_were_accepted_or_too_dear(tmp_path: Path, header: bytes) -> None:
    assert outcome(lambda: headers.read_header(header_file(tmp_path, header))) == "BAD_SAFETENSORS"


def test_a_config_of_very_many_parts_is_refused(good: Path, tmp_path: Path) -> None:
    """transformers copies it for ten seconds."""
    edit_json(Path(shutil.copy(good / "config.json", tmp_path)), extra=[[]] * 60_000)
    assert outcome(lambda: read_config(tmp_path)) == "BAD_CONFIG"


def test_files_that_transformers_reads_unasked_have_bounds(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", extra=[[]] * 120_000)
    assert outcome(lambda: probe(str(folder))) == "BAD_TOKENIZER"
    edit_json(folder / "tokenizer_config.json", extra=None)
    for damage in (b"{", b"[]", b'{"a":[' + b"[]," * 60_000 + b"1]}"):
        (folder / "generation_config.json").write_bytes(damage)
        assert outcome(lambda: checked_folder(str(folder))) == "LOAD_FAILED"


@pytest.mark.parametrize("value", [{"factor": 0}, "float32", 1.5, -1])
def test_a_sliding_window_is_a_number(good: Path, value: object) -> None:
    config = {**read_config(good), "sliding_window": value}
    assert outcome(lambda: check_config(config, good)) == "BAD_CONFIG_VALUE"


def test_a_template_that_writes_half_of_a_character_is_not_used(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", chat_template="\ud800")
    text, templated, notes = write(load_tokenizer(folder), "Hello")
    assert (text, templated, notes[0][0]) == ("Hello", False, "BAD_TEMPLATE")


def test_a_tokenizer_that_cannot_be_used_is_refused_when_it_is_loaded(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", model_max_length="many")
    assert outcome(lambda: load_tokenizer(folder)) == "BAD_TOKENIZER"


def test_what_ends_an_answer_is_a_number(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": {"a": 1}}')
    assert end_tokens(*load_model(folder, torch.device("cpu"))) == {256}


def test_a_template_that_was_too_slow_when_it_was_tried_is_not_used(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", chat_template=NESTED_LOOPS)
    assert load_model(folder, torch.device("cpu"))[1].chat_template is None
