"""The numbers of a layer are those of its matrices, and its sentences those of its numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers import DEGENERATE, degenerate_layer, random_layer, tiny_model
from torch import Tensor

from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.inspection import Inspection, in_words, inspection, read_layer
from quip_engine.inspection.numbers import TILES, rms, tile_maps
from quip_engine.inspection.words import gaussian_largest
from quip_engine.layer import quantize_weight
from quip_engine.linalg.guarantee import hadamard_incoherence
from quip_engine.methods.registry import alone, resolve
from quip_engine.pipeline import quantize_model
from quip_engine.race import all_presets


def look(W: Tensor, H: Tensor, method: str = "quip#", bits: float = 2) -> Inspection:
    recipe = resolve(alone(RecipeConfig(method, bits)))
    result = quantize_weight(W, H, recipe)
    return inspection(W, H, result.format, result.tensors, getattr(recipe.rounding, "damping", None))


@pytest.mark.parametrize("config", all_presets(2), ids=lambda config: config.method)
def test_figures_are_those_of_the_report(config: RecipeConfig) -> None:
    W, H = random_layer(64, 48)
    recipe = resolve(alone(config))
    result = quantize_weight(W, H, recipe)
    seen, report = inspection(W, H, result.format, result.tensors), result.report
    assert seen.rel_proxy == pytest.approx(report.rel_proxy, rel=1e-4)
    assert seen.rel_mse == pytest.approx(report.rel_mse, rel=1e-4)
    assert seen.bits_per_weight == report.bits_per_weight
    mu = seen.incoherence
    assert (mu.w_before, mu.w_after) == pytest.approx((report.mu_w_before, report.mu_w_after), rel=1e-3)
    assert (mu.h_before, mu.h_after) == pytest.approx((report.mu_h_before, report.mu_h_after), rel=1e-3)
    assert seen.least is not None
    assert 0 < seen.least < seen.rel_proxy * 1.1
    assert all(len(sentence) < 300 for sentence in in_words(seen))


def test_maps_keep_the_largest_of_each_tile() -> None:
    W = torch.full((200, 300), 0.5)
    W[7, 250] = -40.0
    maps = tile_maps(W, W.clone(), torch.zeros_like(W))
    assert maps.before.shape == (TILES, TILES)
    assert maps.before[7 * TILES // 200, 250 * TILES // 300] == 255
    assert int((maps.before == 255).sum()) == 1
    assert maps.error.max() == 0
    assert maps.tile == pytest.approx((200 / TILES, 300 / TILES))
    small = tile_maps(W[:3, :5], W[:3, :5], W[:3, :5])
    assert small.after.shape == (3, 5)


def test_a_histogram_is_a_density() -> None:
    W, H = random_layer(128, 96)
    seen = look(W, H)
    width = 2 * seen.histogram.reach / len(seen.histogram.before)
    for density in (seen.histogram.before, seen.histogram.after):
        assert sum(density) * width == pytest.approx(1, abs=1e-3)
    middle = len(seen.histogram.centres) // 2
    assert seen.histogram.centres[middle] == pytest.approx(0, abs=1e-9)
    assert seen.histogram.after[middle] == pytest.approx(1 / math.sqrt(2 * math.pi), rel=0.1)


def test_outliers_are_found_and_spread() -> None:
    W, H = random_layer(64, 48)
    W[9, 4] = 3.0
    seen = look(W, H)
    assert seen.outliers.worst == (9, pytest.approx(3.0 / rms(W), rel=1e-4))
    assert seen.outliers.beyond == (1, 0)
    assert (
        max(seen.outliers.before)
        == seen.outliers.sorted_before[0]
        == pytest.approx(seen.incoherence.w_before, rel=1e-4)
    )
    first, _ = in_words(seen)
    assert "row 9" in first
    assert f"no weight is beyond {seen.incoherence.w_after:.1f}" in first


def test_sentences_follow_the_numbers() -> None:
    W, H = random_layer(64, 48)
    assert "there are no outliers" in in_words(look(W, H))[0]
    assert "nothing is rotated" in in_words(look(W, H, "optq"))[0]
    flat = in_words(look(W, torch.eye(48), "nearest"))[1]
    assert "44 of 48 directions" in flat
    assert "did not hide its error" in flat
    assert "hid its error in the others" in in_words(look(W, H))[1]


def test_the_largest_of_many_gaussians() -> None:
    X = torch.randn(200, 10_000, generator=torch.Generator().manual_seed(0)).abs().amax(1)
    assert gaussian_largest(10_000) == pytest.approx(float(X.median()), rel=0.05)  # measured 3.89 and 3.98


def test_the_spectrum_is_in_units_of_its_mean() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])
    found = look(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.diag(values)).spectrum
    assert found is not None
    assert found.ranks == [1, 2, 3, 4, 5]
    assert found.values == pytest.approx((values / values.mean()).tolist())
    assert found.holding == 4  # 15 of 16
    assert found.damping == 0.01


def test_what_a_transform_promises() -> None:
    W, H = random_layer(64, 48)
    mu = look(W, H).incoherence
    assert (mu.w_promised, mu.h_promised) == hadamard_incoherence(64, 48)
    assert mu.h_after is not None and mu.h_promised is not None
    assert mu.h_after < mu.h_promised
    assert look(W, H, "quip").incoherence.w_promised is None


def test_pictures_of_codebooks() -> None:
    W, H = random_layer(64, 48)
    points = look(W, H).picture.points
    assert points is not None
    assert len(points.x) <= 72
    assert sum(points.shares) == pytest.approx(1)
    assert {abs(x) % 0.5 for x in points.x} == {0.25}
    assert points.used <= 64 * 48 / 8
    levels = look(W, H, "nearest").picture.levels
    assert levels is not None
    assert len(levels.values) <= 4
    assert sum(levels.shares) == pytest.approx(1)
    trellis = look(W, H, "qtip").picture
    assert trellis.levels is trellis.points is None
    assert 0.0625 < trellis.distortion.mse < 0.08  # measured 0.0696


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_layers_can_be_looked_at(kind: str) -> None:
    W, H = degenerate_layer(kind)
    seen = look(W, H)
    assert math.isfinite(seen.rel_mse)
    assert all(in_words(seen))


def test_a_stored_layer_is_read_as_it_was_written(tmp_path: Path) -> None:
    model, out = tiny_model(tmp_path), tmp_path / "out"
    job = JobConfig(str(model), str(out), RecipeConfig("quip#", 2), CalibrationConfig(samples=4, seqlen=32))
    events = list(quantize_model(job, tmp_path / "work", lambda: False))
    name = "model.layers.1.mlp.down_proj"
    report = next(event for event in events if getattr(event, "name", "") == name)
    format, tensors = read_layer(out, name)
    W_hat = format.dequantize(tensors, *report.shape)
    from safetensors.torch import load_file

    W = load_file(model / "model.safetensors")[f"{name}.weight"].float()
    assert float((W_hat - W).square().sum() / W.square().sum()) == pytest.approx(report.rel_mse, rel=1e-3)
    with pytest.raises(QuipError) as error:
        read_layer(out, "model.layers.7.mlp.down_proj")
    assert error.value.code == "BAD_SETTING"
    with pytest.raises(QuipError) as error:
        read_layer(model, name)
    assert error.value.code == "NOT_A_CHECKPOINT"
