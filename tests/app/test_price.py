from dataclasses import replace
from pathlib import Path

import pytest

from app.machine import Memory
from app.price import Costs, price, run_costs
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.probe import probe
from quip_engine.targets import settle

DEMO = Path(__file__).parents[2] / "assets" / "demo-model"


@pytest.mark.parametrize(("method", "options"), [("quip#", 2), ("waterfill", 3)])
def test_too_little_memory_names_what_would_save_some(monkeypatch, tmp_path, method, options):
    job = JobConfig(str(DEMO), str(tmp_path / "out"), RecipeConfig(method, 2), CalibrationConfig(), device="cpu")
    facts = probe(job.model)
    target = settle(job.recipe, job.budget, facts)
    costs = run_costs(facts, target, job)
    monkeypatch.setattr("app.price.memory", lambda device: Memory("Memory", 0, costs.memory - 1))
    text = price(facts, target, job, costs)
    assert text.count(" saves ") == options
    assert "64 samples saves" in text
    assert "You can start anyway" in text
    monkeypatch.setattr("app.price.memory", lambda device: Memory("Memory", 0, costs.memory + 1))
    assert "saves" not in price(facts, target, job, costs)


def test_a_measured_time_says_so(tmp_path):
    job = JobConfig(str(DEMO), str(tmp_path / "out"), device="cpu")
    facts = probe(job.model)
    target = settle(job.recipe, job.budget, facts)
    costs = Costs(replace(run_costs(facts, target, job).run, seconds=61.0), None)
    assert "from one layer, measured" in price(facts, target, job, costs, measured=True)
    assert "from one layer" not in price(facts, target, job, costs)


def test_a_size_is_met_and_tuning_has_a_price(tmp_path):
    budget, tuning = BudgetConfig(size=3_000_000), TuningConfig(("end-to-end", "pv"), samples=64)
    plain = JobConfig(str(DEMO), str(tmp_path / "out"), RecipeConfig("waterfill", 2), budget=budget, device="cpu")
    job, facts = replace(plain, tuning=tuning), probe(str(DEMO))
    target = settle(job.recipe, job.budget, facts)
    costs, untuned = run_costs(facts, target, job), run_costs(facts, target, plain)
    text = price(facts, target, job, costs)
    assert "3.000 MB, as asked" in text
    assert "on average, shared out by what errors cost" in text
    assert "2 stages, about" in text
    assert untuned.tuning is None and "stage" not in price(facts, target, plain, untuned)
    assert costs.seconds > untuned.seconds + 5
    assert costs.memory > untuned.memory
