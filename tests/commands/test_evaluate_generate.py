import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import edit_json, made_up_text, tiny_model

from quip_engine.commands import evaluate, generate
from quip_engine.errors import QuipError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(made_up_text(100), encoding="utf-8")
    return path


def call(*arguments: object) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in (evaluate, generate):
        command.add_parser(subparsers)
    options = parser.parse_args([*map(str, arguments), "--device", "cpu"])
    return json.loads(json.dumps(options.run(options), allow_nan=False))


def refused(code: str, *arguments: object) -> str:
    with pytest.raises(QuipError) as caught:
        call(*arguments)
    assert caught.value.code == code
    return caught.value.message


def test_evaluate_alone(model: Path, text: Path, capsys) -> None:
    result = call("evaluate", model, "--text", text, "--seqlen", 32, "--max-windows", 3)
    assert (result["windows"], result["seqlen"], result["tokens"]) == (3, 32, 93)
    assert 200 < result["perplexity"] < 350  # random weights, 264 tokens
    assert result["perplexity_error"] > 0
    assert result["mean_kl"] is result["top1_agreement"] is result["original_perplexity"] is None
    output = capsys.readouterr()
    assert output.out == ""
    assert "3 windows of 32" in output.err
    assert "perplexity" in output.err


def test_evaluate_against_the_original(model: Path, text: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", seed=1)
    same = call("evaluate", model, "--text", text, "--against", model, "--max-windows", 2)
    assert same["seqlen"] == 64  # the context, less than the default
    assert (same["mean_kl"], same["top1_agreement"]) == (0, 1)
    assert same["original_perplexity"] == same["perplexity"]
    moved = call("evaluate", other, "--text", text, "--against", model, "--max-windows", 2)
    assert moved["mean_kl"] > 0
    assert moved["top1_agreement"] < 1


def test_the_bundled_text(model: Path) -> None:
    assert call("evaluate", model, "--max-windows", 1)["windows"] == 1


def test_evaluate_refuses(model: Path, text: Path, tmp_path: Path) -> None:
    short, binary = tmp_path / "short.txt", tmp_path / "binary"
    short.write_text("few words")
    binary.write_bytes(b"\xff\xfe\x00")
    assert "short.txt has 9 tokens" in refused("EVAL_EMPTY", "evaluate", model, "--text", short)
    refused("CALIB_FORMAT", "evaluate", model, "--text", binary)
    refused("NOT_FOUND", "evaluate", model, "--text", tmp_path / "nowhere.txt")
    refused("BAD_SETTING", "evaluate", model, "--text", text, "--seqlen", 65)
    refused("BAD_SETTING", "evaluate", model, "--text", text, "--seqlen", 1)
    refused("BAD_SETTING", "evaluate", model, "--text", text, "--max-windows", 0)
    refused("BAD_SETTING", "evaluate", model, "--text", text, "--threads", 0)
    refused("NOT_FOUND", "evaluate", tmp_path / "nowhere", "--text", text)


def test_another_tokenizer_cannot_be_compared(model: Path, text: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other")
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    edit_json(other / "tokenizer.json", **vocabulary)
    message = refused("BAD_SETTING", "evaluate", model, "--text", text, "--against", other)
    assert message.startswith("against")


def test_generate(model: Path, capsys) -> None:
    arguments = ("generate", model, "--prompt", "ab", "--tokens", 10, "--temperature", 1)
    result = call(*arguments, "--seed", 3)
    assert 0 < result["tokens"] <= 10
    assert result["tokens_per_second"] > 0
    assert result["end"] in ("length", "eos")
    output = capsys.readouterr()
    assert output.out == ""
    assert result["text"] in output.err
    again = call(*arguments, "--seed", 3)
    assert again["text"] == result["text"]
    assert call(*arguments, "--seed", 4)["text"] != result["text"]


def test_generate_says_what_it_did_to_the_prompt(model: Path, capsys) -> None:
    result = call("generate", model, "--prompt", "x" * 100, "--tokens", 4)
    assert result["notes"] == ["PROMPT_LONG"]
    assert result["templated"] is False
    assert "cut to its last 60 tokens" in capsys.readouterr().err


def test_generate_refuses(model: Path, tmp_path: Path) -> None:
    refused("BAD_SETTING", "generate", model, "--prompt", "a", "--tokens", 0)
    refused("BAD_SETTING", "generate", model, "--prompt", "a", "--temperature", "nan")
    refused("NOT_FOUND", "generate", tmp_path / "nowhere", "--prompt", "a")


def test_where_the_damage_arises(model: Path, text: Path, tmp_path: Path, capsys) -> None:
    other = tiny_model(tmp_path / "other", seed=1)
    common = ("evaluate", other, "--text", text, "--seqlen", 32, "--max-windows", 2)
    result = call(*common, "--against", model, "--blocks", "--positions")
    assert [block["block"] for block in result["blocks"]] == [0, 1]
    assert (result["positions"][0]["first"], result["positions"][-1]["last"]) == (1, 31)
    assert result["worst"][0]["kl"] >= result["worst"][-1]["kl"]
    assert result["ratio"] == pytest.approx(result["perplexity"] / result["original_perplexity"], rel=1e-9)
    assert "after block 1" in capsys.readouterr().err
    assert refused("BAD_SETTING", *common, "--blocks").startswith("against")
