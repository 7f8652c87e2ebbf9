from dataclasses import replace
from pathlib import Path

import pytest

from app.machine import Memory
from app.price import price
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.estimate import estimate
from quip_engine.methods.registry import resolve
from quip_engine.probe import probe

DEMO = Path(__file__).parents[2] / "assets" / "demo-model"


@pytest.mark.parametrize(("method", "options"), [("quip#", 2), ("waterfill", 3)])
def test_too_little_memory_names_what_would_save_some(monkeypatch, tmp_path, method, options):
    job = JobConfig(str(DEMO), str(tmp_path / "out"), RecipeConfig(method, 2), CalibrationConfig(), device="cpu")
    facts, recipe = probe(job.model), resolve(job.recipe)
    costs = estimate(facts, recipe, job.calibration, job.device)
    monkeypatch.setattr("app.price.memory", lambda device: Memory("Memory", 0, costs.peak_memory - 1))
    text = price(facts, recipe, job, costs)
    assert text.count(" saves ") == options
    assert "64 samples saves" in text
    assert "You can start anyway" in text
    monkeypatch.setattr("app.price.memory", lambda device: Memory("Memory", 0, costs.peak_memory + 1))
    assert "saves" not in price(facts, recipe, job, costs)


def test_a_measured_time_says_so(tmp_path):
    job = JobConfig(str(DEMO), str(tmp_path / "out"), device="cpu")
    facts, recipe = probe(job.model), resolve(job.recipe)
    costs = replace(estimate(facts, recipe, job.calibration, job.device), seconds=61.0)
    assert "from one layer, measured" in price(facts, recipe, job, costs, measured=True)
    assert "from one layer" not in price(facts, recipe, job, costs)
