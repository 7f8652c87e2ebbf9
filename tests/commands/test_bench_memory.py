"""bench memory: the models are made, loaded and quantized in processes of their own; how much they take is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quip_engine.checkpoint import verify
from quip_engine.cli import build_parser
from quip_engine.commands.bench.synthetic import Shape, write_dense, write_packed
from quip_engine.errors import QuipError
from quip_engine.linear import QuantizedLinear
from quip_engine.loading import load_model

SMALL = Shape(width=128, inner=256, blocks=2, vocabulary=1024)


def test_packed_model_is_a_checkpoint(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "packed", SMALL)
    verify(folder)
    model, _ = load_model(folder, torch.device("cpu"), dtype=None)
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == 2 * 7
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


@pytest.mark.parametrize("experts", [0, 4])
def test_dense_model_is_of_that_shape(tmp_path: Path, experts: int) -> None:
    shape = replace(SMALL, experts=experts)
    model, _ = load_model(write_dense(tmp_path / "dense", shape), torch.device("cpu"), dtype=None)
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.model.layers[0].parameters()) == shape.block_weights


def test_seeds_decide_the_bytes(tmp_path: Path) -> None:
    first, second = (write_packed(tmp_path / name, SMALL) for name in "ab")
    for path in first.glob("*.safetensors"):
        assert path.read_bytes() == (second / path.name).read_bytes()


@pytest.mark.slow
def test_every_row_is_measured() -> None:
    arguments = ["--width", "128", "--inner", "256", "--blocks", "2", "--vocabulary", "1024"]
    options = build_parser().parse_args(["bench", "memory", *arguments])
    rows = {row["name"]: row for row in options.run(options)}
    assert list(rows) == ["loading, peak", "loaded, 8 tokens", "quantization, peak"]
    assert all(row["mb"] > 100 and row["of_mb"] > 0 for row in rows.values())


def test_a_mixture_has_more_than_one_expert() -> None:
    options = build_parser().parse_args(["bench", "memory", "--experts", "1"])
    with pytest.raises(QuipError, match="experts: 1 is not possible"):
        options.run(options)


def test_widths_are_those_of_whole_heads() -> None:
    options = build_parser().parse_args(["bench", "memory", "--width", "100"])
    with pytest.raises(QuipError, match="width: 100 is not possible"):
        options.run(options)
