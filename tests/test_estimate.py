"""Estimates against what a run really makes and takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from helpers import FAMILIES, made_up_text, tiny_model

from quip_engine import events
from quip_engine.commands.bench.synthetic import Shape, write_dense
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.estimate import Estimate, _peak_memory, _rates, estimate, measured, output_bytes, room
from quip_engine.methods import resolve
from quip_engine.pipeline import quantize_model
from quip_engine.probe import probe

SMALL = CalibrationConfig(samples=4, seqlen=32)


def finished(model: Path, tmp_path: Path, recipe: RecipeConfig) -> tuple[Estimate, events.RunFinished]:
    """The estimate of a job, and how the job ended."""
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(400))
    calibration = CalibrationConfig(str(text), SMALL.samples, SMALL.seqlen)
    job = JobConfig(str(model), str(tmp_path / "out"), recipe, calibration, device="cpu")
    before = estimate(probe(str(model)), resolve(recipe), calibration, "cpu")
    *_, last = quantize_model(job, tmp_path / "workspace", lambda: False)
    assert isinstance(last, events.RunFinished)
    return before, last


@pytest.mark.parametrize(("method", "bits"), [("quip", 2), ("nearest", 4)])
def test_bytes_and_bits_of_the_demo_model(assets: Path, tmp_path: Path, method: str, bits: int) -> None:
    before, after = finished(assets / "demo-model", tmp_path, RecipeConfig(method, bits))
    assert before.bits_per_weight == pytest.approx(after.bits_per_weight, rel=1e-9)
    assert before.bytes == pytest.approx(after.bytes, rel=0.02)  # 0.002 measured, also for quip#
    assert before.disk > before.bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_of_every_family(family: str, tmp_path: Path) -> None:
    """Tiny folders are mostly text: names, records, headers. Still within a few percent."""
    model = tiny_model(tmp_path, family, dtype=torch.bfloat16)
    before, after = finished(model, tmp_path, RecipeConfig("quip#", 3))
    assert before.bits_per_weight == pytest.approx(after.bits_per_weight, rel=1e-9)
    assert before.bytes == pytest.approx(after.bytes, rel=0.05)  # 0.02 measured


def test_more_work_costs_more(assets: Path) -> None:
    facts = probe(str(assets / "demo-model"))
    usual, fast = resolve(RecipeConfig("quip#", 2)), resolve(RecipeConfig("nearest", 2))
    little, much = (estimate(facts, usual, CalibrationConfig(samples=n), "cpu") for n in (32, 512))
    assert much.seconds > little.seconds
    assert much.peak_memory > little.peak_memory
    assert much.disk > little.disk
    assert estimate(facts, fast, CalibrationConfig(samples=32), "cpu").seconds < little.seconds
    assert output_bytes(facts, fast) == pytest.approx(little.bytes, rel=0.02)


def test_windows_longer_than_the_context_cost_no_more(assets: Path) -> None:
    facts = probe(str(assets / "demo-model"))
    recipe = resolve(RecipeConfig("nearest", 4))
    cut, full = (estimate(facts, recipe, CalibrationConfig(seqlen=n), "cpu") for n in (4096, 512))
    assert cut == full


def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    recipe = resolve(RecipeConfig("waterfill", 2))
    shallow, deep = (
        _peak_memory(probe(str(tiny_model(tmp_path / str(n), num_hidden_layers=n))), recipe, 10**6, 32, "cpu")
        for n in (2, 12)
    )
    assert deep == pytest.approx(shallow, rel=0.05)


@pytest.mark.parametrize(
    ("recipe", "width", "inner", "mb"),
    [
        (RecipeConfig("quip#"), 1280, 3520, 559),
        (RecipeConfig("waterfill", options={"targets": "original"}), 2048, 5632, 795),
    ],
    ids=["quip#", "waterfill"],
)
def test_memory_is_what_was_measured(tmp_path: Path, recipe: RecipeConfig, width: int, inner: int, mb: int) -> None:
    """Against what ``bench memory`` said of the same model: 5 and 7 % more."""
    facts = probe(str(write_dense(tmp_path / "dense", Shape(width, inner, blocks=1, vocabulary=1024))))
    memory, _ = room(facts, resolve(recipe), CalibrationConfig(samples=16, seqlen=128), torch.device("cpu"))
    assert memory / 1e6 == pytest.approx(mb, rel=0.15)


def test_measuring_takes_a_moment_and_only_once(assets: Path) -> None:
    facts = probe(str(assets / "demo-model"))
    recipe = resolve(RecipeConfig("quip#", 2))
    _rates.cache_clear()
    estimate(facts, recipe, SMALL, "cpu")
    started = time.process_time()
    estimate(facts, recipe, SMALL, "cpu")
    assert time.process_time() - started < 0.1  # the first takes 0.2


def test_a_measured_layer_gives_the_time_of_the_rest(assets: Path) -> None:
    """Both ways of timing agree within what a busy machine varies by."""
    facts, recipe = probe(str(assets / "demo-model")), resolve(RecipeConfig("quip#", 2))
    rates = measured(facts, recipe, "cpu")
    quick, refined = (estimate(facts, recipe, SMALL, "cpu", r) for r in (None, rates))
    assert rates.per_column == 0
    assert quick.seconds / 4 < refined.seconds < quick.seconds * 4  # 0.8 to 1.3 measured
    assert quick.bytes == refined.bytes
