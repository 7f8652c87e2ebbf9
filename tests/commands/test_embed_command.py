import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import made_up_text, tiny_model
from transformers import AutoModel, AutoTokenizer

from quip_engine.commands import embed, evaluate, generate
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.pipeline import quantize_model

TEXTS = ("a house", "a tree in the rain")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path, "bert", initializer_range=0.3)


@pytest.fixture
def quantized(model: Path, tmp_path: Path) -> Path:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(made_up_text(400))
    job = JobConfig(str(model), str(out), calibration=CalibrationConfig(str(text), 8, 32), device="cpu")
    list(quantize_model(job, tmp_path / "work", lambda: False))
    return out


def call(*arguments: object) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in (embed, evaluate, generate):
        command.add_parser(subparsers)
    options = parser.parse_args([*map(str, arguments), "--device", "cpu"])
    return json.loads(json.dumps(options.run(options), allow_nan=False))


def refused(code: str, *arguments: object) -> QuipError:
    with pytest.raises(QuipError) as caught:
        call(*arguments)
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def test_vectors_are_the_mean_of_the_last_states(model: Path, capsys) -> None:
    result = call("embed", model, "--text", *TEXTS)
    whole, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    for text, vector in zip(TEXTS, result["embeddings"], strict=True):
        with torch.no_grad():
            mean = whole(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(torch.tensor(vector), mean / mean.norm(), rtol=1e-5, atol=1e-6)
    assert (result["texts"], result["width"], result["tokens"], result["cut"]) == (2, 32, [7, 18], [])
    assert result["cosine"] is result["mean_cosine"] is None
    output = capsys.readouterr()
    assert output.out == ""
    assert "a tree in the rain" in output.err


def test_against_the_original(model: Path, quantized: Path, capsys) -> None:
    same = call("embed", model, "--text", *TEXTS, "--against", model)
    assert same["cosine"] == pytest.approx([1, 1], abs=1e-6)
    moved = call("embed", quantized, "--text", *TEXTS, "--against", model)
    assert all(0.8 < cosine < 1 - 1e-6 for cosine in moved["cosine"])
    assert moved["mean_cosine"] == pytest.approx(sum(moved["cosine"]) / 2)
    assert "cosine to the original 0.9" in capsys.readouterr().err


def test_a_long_text_is_cut_and_named(model: Path, capsys) -> None:
    result = call("embed", model, "--text", "short", "x" * 100)
    assert (result["tokens"], result["cut"]) == ([5, 64], [1])
    assert "cut to the context" in capsys.readouterr().err


def test_what_is_refused(model: Path, tmp_path: Path) -> None:
    refused("BAD_SETTING", "embed", model, "--text", "")
    refused("NOT_FOUND", "embed", tmp_path / "nowhere", "--text", "a")
    causal = tiny_model(tmp_path)
    assert "generate" in refused("NOT_AN_ENCODER", "embed", causal, "--text", "a").hint
    refused("NOT_AN_ENCODER", "embed", model, "--text", "a", "--against", causal)
    wide = tiny_model(tmp_path / "wide", "bert", hidden_size=64)
    assert "width 32" in refused("BAD_SETTING", "embed", model, "--text", "a", "--against", wide).hint
    other = tiny_model(tmp_path / "other", "bert")
    words = json.loads((other / "tokenizer.json").read_text())
    words["model"]["vocab"]["a"], words["model"]["vocab"]["b"] = 1, 0
    (other / "tokenizer.json").write_text(json.dumps(words))
    assert "same tokenizer" in refused("BAD_SETTING", "embed", model, "--text", "a", "--against", other).hint


@pytest.mark.parametrize("arguments", [("generate", "--prompt", "a"), ("evaluate",)])
def test_commands_that_need_text_refuse_an_encoder(model: Path, quantized: Path, arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    for folder in (model, quantized):
        assert "embed" in refused("NOT_A_CHAT_MODEL", command, folder, *rest).hint
