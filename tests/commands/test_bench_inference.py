"""bench decode, prefill and generation: every row is measured and right; how fast is for the machine to say."""

from __future__ import annotations

import pytest
import torch

from quip_engine.cli import build_parser
from quip_engine.codebooks import codebooks
from quip_engine.commands.bench.layers import random_layer


def rows(*arguments: str) -> dict[str, dict]:
    options = build_parser().parse_args(["bench", *arguments])
    return {row["name"]: row for row in options.run(options)}


@pytest.mark.parametrize("kind", list(codebooks), ids=codebooks.names())
def test_random_layers_decode(kind) -> None:
    layer = random_layer(kind(), 96, 128, torch.Generator().manual_seed(0), spent=224)
    W = layer.codebook.decode(layer.tensors, 96, 128)
    assert W.shape == (96, 128) and W.isfinite().all() and W.std() > 0


def test_decode_compares_products_with_dense_ones() -> None:
    found = rows("decode", "--size", "256", "--rounds", "2", "--codebooks", "grid")
    assert found["torch bfloat16"]["ratio"] == 1
    assert found["Hadamard"]["error"] < 1e-6
    for name in ("grid", "grid int8"):
        if name in found:  # where there is a compiler
            assert found[name]["error"] < 0.01 and found[name]["bits_per_weight"] == pytest.approx(2, abs=0.01)


def test_prefill_times_whole_layers() -> None:
    found = rows("prefill", "--size", "128", "--tokens", "32", "--rounds", "2", "--codebooks", "grid")
    assert "Hadamard" not in found and all(row["median_ms"] > 0 for row in found.values())


def test_generation_compares_models() -> None:
    found = rows("generation", "--layers", "1", "--rounds", "1", "--codebooks", "grid")
    assert list(found) == ["bfloat16, dense", "grid", "grid int8"]
    assert found["grid"]["weight_bytes"] < 0.7 * found["bfloat16, dense"]["weight_bytes"]
    assert all(row["tokens_per_second"] > 0 for row in found.values())
