"""Progressive tuning: what follows learns to make good what was rounded; stops cost nothing, nothing worse is taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import Stopped
from quip_engine.estimate import room
from quip_engine.evaluate import kl_rows, predict
from quip_engine.files import sha256
from quip_engine.loading import load_model
from quip_engine.pipeline import quantize_model
from quip_engine.plan import make_plan
from quip_engine.tuning import loop, progressive
from quip_engine.tuning.cost import kept_bytes

TUNING = TuningConfig(("progressive",), samples=72, batch=6, steps=24, rate=0.1)
CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path, "llama", hidden_size=64, num_hidden_layers=3, initializer_range=0.2)


def job_for(tmp_path, model, out="out", **changes):
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(4000))
    usual = {"recipe": RecipeConfig("quip#", 2), "calibration": CalibrationConfig(str(text), samples=8, seqlen=24)}
    return JobConfig(str(model), str(tmp_path / out), **{**usual, "threads": 1, "tuning": TUNING, **changes})


def run(job, workspace, stop=lambda: False):
    return list(quantize_model(job, workspace, stop))


def digests(folder):
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir())}


def divergence(job, model):
    """KL to the original on windows that no tuning has seen."""
    fresh = make_plan(replace(job, seed=5), resumed=True).tokens
    original, made = (load_model(path, CPU)[0] for path in (model, job.out))
    rows = [kl_rows(*(predict(m, window).log_softmax(-1) for m in (original, made))) for window in fresh]
    return float(torch.cat(rows).mean())


def test_the_rest_makes_good_what_was_rounded(tmp_path, model):
    before = job_for(tmp_path, model, "before", tuning=TuningConfig())
    run(before, tmp_path / "work-before")
    job = job_for(tmp_path, model)
    found = run(job, tmp_path / "work")
    finished = [e for e in found if isinstance(e, events.TuningFinished)]
    assert [e.stage for e in finished] == ["progressive 1", "progressive 2"]
    assert all(e.taken and e.steps == 12 for e in finished)
    phases = [e.phase for e in found if isinstance(e, events.PhaseChanged)]
    assert phases == ["check", "calibrate", "quantize", *["tune", "quantize"] * 2, "pack", "done"]
    assert [r["stage"] for r in read_manifest(Path(job.out))["tuning"]["results"]] == [e.stage for e in finished]
    assert divergence(job, model) < 0.9 * divergence(before, model)


def test_room_on_the_disk_is_told_before(tmp_path, model, monkeypatch):
    monkeypatch.setattr(loop, "KEEP_SECONDS", 0.0)
    job, work = job_for(tmp_path, model), tmp_path / "work"
    plan = make_plan(job)
    _, without = room(plan.facts, plan.recipe, job.calibration, CPU)
    most = 0
    for _ in quantize_model(job, work, lambda: False):
        most = max(most, sum(path.stat().st_size for path in work.rglob("*") if path.is_file()))
    assert without < most <= without + kept_bytes(plan)


@pytest.mark.parametrize("after", [4, 14])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, model, after):
    recipe = RecipeConfig("quip#", 2, options={"targets": "corrected"})
    run(job_for(tmp_path, model, "whole", recipe=recipe), tmp_path / "work-whole")
    asked = iter([False] * after + [True])
    job = job_for(tmp_path, model, recipe=recipe)
    with pytest.raises(Stopped):
        run(job, tmp_path / "work", lambda: next(asked))
    run(job, tmp_path / "work")
    assert digests(job.out) == digests(tmp_path / "whole")


def test_what_is_no_better_is_not_taken(tmp_path, model, monkeypatch):
    run(job_for(tmp_path, model, "plain", tuning=TuningConfig()), tmp_path / "work-plain")
    monkeypatch.setattr(progressive, "SLOWER", -1.0)  # uphill
    found = run(job_for(tmp_path, model), tmp_path / "work")
    assert not any(e.taken for e in found if isinstance(e, events.TuningFinished))
    names = [name for name in digests(tmp_path / "plain") if name.startswith("model-")]
    assert all(digests(tmp_path / "plain")[name] == digests(tmp_path / "out")[name] for name in names)


def test_few_windows_mean_fewer_trainings(tmp_path, model):
    for samples, turns in ((64, [1, 2]), (40, [1]), (8, [1])):
        job = job_for(tmp_path, model, f"{samples}", tuning=replace(TUNING, samples=samples))
        assert progressive.places(make_plan(job)) == turns
    assert progressive.places(make_plan(job_for(tmp_path, model, "none", tuning=TuningConfig()))) == []
