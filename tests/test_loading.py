import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import FAMILIES, edit_json, tiny_model
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from quip_engine.architecture import build_on_meta
from quip_engine.checkpoint import FORMAT_VERSION
from quip_engine.errors import QuipError
from quip_engine.loading import load_model, load_tokenizer
from quip_engine.prompts import prepare_prompt
from quip_engine.skeleton import Skeleton

CPU = torch.device("cpu")


def refused(folder: Path | str, code: str) -> None:
    with pytest.raises(QuipError) as caught:
        load_model(folder, CPU)
    assert caught.value.code == code


@pytest.mark.parametrize("family", FAMILIES)
def test_originals_load_in_the_asked_type(tmp_path: Path, family: str) -> None:
    folder = tiny_model(tmp_path, family, dtype=torch.bfloat16)
    model, tokenizer = load_model(folder, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert tokenizer("ab")["input_ids"] == list(prepare_prompt(model, tokenizer, "ab").ids)
    assert load_model(str(folder), CPU, torch.bfloat16)[0].dtype == torch.bfloat16


def test_what_is_no_model(tmp_path: Path) -> None:
    refused("", "NO_MODEL")
    refused(tmp_path / "nowhere", "NOT_FOUND")
    refused(tmp_path, "NO_CONFIG")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "NOT_A_FOLDER")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that says it is one of ours and has no packed layer."""
    folder = tiny_model(tmp_path)
    edit_json(folder / "config.json", quantization_config={"quant_method": "quip", "format_version": FORMAT_VERSION})
    return folder


def test_a_checkpoint_loads(checkpoint: Path) -> None:
    model, _ = load_model(checkpoint, CPU)
    assert model.config.quantization_config.layers == {}


def test_a_checkpoint_is_checked_like_any_other(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint / "config.json", _attn_implementation="evil/kernel")
    refused(checkpoint, "UNSAFE_CONFIG")
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": -1}))
    refused(checkpoint, "BAD_CONFIG_VALUE")
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer.json").write_text("{")
    refused(checkpoint, "BAD_TOKENIZER")
    (checkpoint / "tokenizer.json").unlink()
    refused(checkpoint, "NO_TOKENIZER")
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, "NO_WEIGHTS")


def test_tokens_without_a_row(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", vocab_size=200)
    refused(checkpoint, "VOCAB_MISMATCH")


def test_an_index_cannot_name_files_outside(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(checkpoint, "UNSAFE_INDEX")


def test_other_failures_have_a_name(tmp_path: Path, monkeypatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("first line\nmany more")

    monkeypatch.setattr("quip_engine.loading.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(QuipError, match=r"could not be loaded: first line\.") as caught:
        load_model(tiny_model(tmp_path), CPU)
    assert "many more" in caught.value.details


def test_a_panic_of_the_tokenizer_has_a_name(tmp_path: Path, monkeypatch) -> None:
    class Panic(BaseException):
        pass

    def fail(*_arguments: object, **_options: object) -> None:
        raise Panic("regex")

    monkeypatch.setattr("quip_engine.loading.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(QuipError, match="Panic: regex"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(
        "quip_engine.loading.AutoTokenizer.from_pretrained", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(tmp_path)


@contextmanager
def building(config: PretrainedConfig) -> Iterator[None]:
    """Two threads that build models on meta all the time."""
    done = threading.Event()

    def build() -> None:
        while not done.is_set():
            build_on_meta(config)

    builders = [threading.Thread(target=build) for _ in range(2)]
    for thread in builders:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in builders:
            thread.join()


def test_models_are_read_while_others_are_built(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    with building(AutoConfig.from_pretrained(folder)):
        models = [load_model(folder, CPU)[0] for _ in range(3)]
    assert not any(p.is_meta for model in models for p in model.parameters())


def test_weights_stay_real_while_others_are_built(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    with building(AutoConfig.from_pretrained(folder)):
        blocks = [Skeleton(folder, CPU).load_block(0) for _ in range(20)]
        linears = [nn.Linear(2, 2) for _ in range(5000)]
    assert not any(p.is_meta for module in [*blocks, *linears] for p in module.parameters())
