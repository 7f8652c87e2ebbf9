"""``inspect``: the facts and estimates of a model as JSON, the coded error of one that cannot be quantized."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import edit_json, tiny_model
from packed_models import packed
from published_folders import qtip_folder, quip_sharp_folder

from quip_engine.cli import main

KEYS = {
    "architecture",
    "parameters",
    "blocks",
    "linear_layers",
    "supported",
    "estimate",
    "warnings",
    "licence",
    "dtype",
}


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict, str]:
    status = main(["inspect", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out.splitlines()[-1]), printed.err


def test_a_model_that_is_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, result, text = inspect(capsys, tiny_model(tmp_path))
    assert status == 0
    assert set(result) >= KEYS
    assert (result["architecture"], result["blocks"], result["supported"]) == ("LlamaForCausalLM", 2, True)
    assert len(result["linear_layers"]) == 14
    first = {"name": "model.layers.0.self_attn.q_proj", "block": 0, "projection": "q_proj", "shape": [32, 32]}
    assert result["linear_layers"][0] == first
    assert result["warnings"][0]["code"] == "NO_TEMPLATE"
    assert {"bytes", "peak_memory", "seconds", "bits_per_weight", "disk"} == set(result["estimate"])
    assert all(value > 0 for value in result["estimate"].values())
    assert "tiny-llama can be quantized" in text


def test_the_recipe_decides_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_model(tmp_path)
    two, four = (inspect(capsys, folder, "--bits", bits)[1]["estimate"] for bits in (2, 4))
    assert four["bits_per_weight"] == pytest.approx(two["bits_per_weight"] + 2, abs=0.1)
    assert four["bytes"] > two["bytes"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--bits", "5"], "BAD_SETTING"),
        (["--method", "magic"], "BAD_SETTING"),
        (["--samples", "0"], "BAD_SETTING"),
        (["--option", "strength"], "BAD_SETTING"),
        (["--wrong"], "BAD_ARGUMENT"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str) -> None:
    status, result, _ = inspect(capsys, tiny_model(tmp_path), *arguments)
    assert (status, result["error"]) == (2, code)


def test_a_model_that_is_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_model(tmp_path)
    edit_json(folder / "config.json", model_type="mamba", architectures=["MambaForCausalLM"])
    status, result, text = inspect(capsys, folder)
    assert (status, result["error"]) == (2, "UNSUPPORTED_ARCH")
    assert "Llama" in result["hint"]
    assert "UNSUPPORTED_ARCH" in text


@pytest.mark.parametrize("kind", ["ours", "QuIP#", "QTIP"])
def test_a_model_that_is_packed_already(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    folder, words = {
        "ours": lambda: (packed(tmp_path)[0], "quip#, 2.500 bits per weight, made from llama"),
        "QuIP#": lambda: (quip_sharp_folder(tmp_path / "small", 3)[0], "QuIP# as published, 3 bits"),
        "QTIP": lambda: (qtip_folder(tmp_path / "small", 2)[0], "QTIP as published, 2 bits"),
    }[kind]()
    status, result, text = inspect(capsys, folder)
    assert (status, result["supported"], result["estimate"]) == (0, False, None)
    assert set(result) >= KEYS - {"dtype"}
    assert result["reason"] == f"it is packed already: {words}"
    assert result["packing"]["bits"] in (2, 3) and result["bits_per_weight"] > 2
    assert f"{folder.name} is packed: {words}. It cannot be quantized again." in text
    assert "runs packed with        `generate` and Compare" in text
    status = main(["quantize", str(folder), "--out", str(tmp_path / "out"), "--json"])
    refused = json.loads(capsys.readouterr().out)
    assert (status, refused["error"]) == (2, "OWN_OUTPUT" if kind == "ours" else "ALREADY_QUANTIZED")
    assert words in refused["message"]
    assert not (tmp_path / "out").exists()


def test_a_wrong_folder_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quip_engine", "inspect", str(tmp_path), "--json"]
    before = sum(os.times()[2:4])
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert sum(os.times()[2:4]) - before < 2  # 0.3 seconds of processor time measured
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "NO_CONFIG"
