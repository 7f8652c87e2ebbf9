"""``problem``: a file that ``layer`` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from safetensors.torch import load_file

from quip_engine.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    status = main([*map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_layer_becomes_a_file_that_layer_reads(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny_model(tmp_path), tmp_path / "p.safetensors"
    arguments = ("problem", model, "1.down_proj", "-o", out, "--samples", 4, "--seqlen", 32)
    status, result = run(capsys, *arguments)
    assert status == 0
    assert (result["layer"], result["shape"]) == ("model.layers.1.mlp.down_proj", [32, 48])
    tensors = load_file(out)
    assert (tensors["W"].shape, tensors["H"].shape) == ((32, 48), (48, 48))
    assert tensors["H"].dtype == torch.float32
    assert (home / "problems").is_dir()
    status, result = run(capsys, "layer", out, "--method", "quip#")
    assert status == 0
    assert 0 < result["rel_proxy"] < 1


def test_what_is_wrong_is_said(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path)
    for layer, out, code in (
        ("9.q_proj", tmp_path / "p.safetensors", "BAD_SETTING"),
        ("0.q_proj", tmp_path / "none" / "p.safetensors", "OUTPUT_NOT_WRITABLE"),
    ):
        status, result = run(capsys, "problem", model, layer, "-o", out)
        assert (status, result["error"]) == (2, code)
    assert run(capsys, "problem", model, "0.q_proj", "-o", tmp_path / "p", "--samples", 0)[1]["error"] == "BAD_SETTING"
