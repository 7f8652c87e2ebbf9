"""bench decode, prefill and generation: every row is measured and right; how fast is for the machine to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quip_engine.cli import build_parser
from quip_engine.codebooks import codebooks
from quip_engine.codebooks.e8p import E8P
from quip_engine.commands.bench.layers import random_layer
from quip_engine.commands.bench.synthetic import Shape, random_model, write_dense, write_packed
from quip_engine.linear import QuantizedLinear
from quip_engine.loading import load_model


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


@pytest.mark.parametrize("kind", list(codebooks), ids=codebooks.names())
def test_random_models_are_whole_and_packed_in_their_blocks_only(kind) -> None:
    shape = Shape(width=128, inner=256, blocks=2, vocabulary=1024)
    model = random_model(shape, kind())
    packed = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert len(packed) == 2 * 7
    first, second = (packed[f"model.layers.{block}.mlp.up_proj"].tensors() for block in range(2))
    for name, tensor in first.items():  # the same codes, in memory of their own
        assert torch.equal(tensor, second[name]) and tensor.data_ptr() != second[name].data_ptr()
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_random_model_is_the_one_of_its_folder(tmp_path: Path) -> None:
    shape, ids = Shape(width=128, inner=256, blocks=2, vocabulary=1024), torch.tensor([[1, 2, 3]])
    for codebook, write in ((None, write_dense), (E8P(), write_packed)):
        model = random_model(shape, codebook)
        assert model.dtype == torch.bfloat16
        loaded, _ = load_model(write(tmp_path / write.__name__, shape), torch.device("cpu"), dtype=None)
        assert torch.equal(loaded(ids).logits, model(ids).logits)
