"""The best at a size: one step from a model and a size to a job, with nothing left to choose."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from quip_engine.best import best_job
from quip_engine.cli import main
from quip_engine.commands import quantize
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError, fail
from quip_engine.probe import probe
from quip_engine.targets import settle

DEMO = Path(__file__).parents[1] / "assets" / "demo-model"


@pytest.fixture(scope="module")
def facts():
    return probe(str(DEMO))


def job(bits=2, **budget):
    text = CalibrationConfig("bundled", seqlen=128)
    return JobConfig(str(DEMO), "out", RecipeConfig(bits=bits), text, seed=3, budget=BudgetConfig(**budget))


@pytest.mark.parametrize("bits", [1.5, 2, 3.35, 5])
def test_bits_are_kept_and_so_are_the_embeddings(facts, bits):
    asked = job(bits, layers={"0.down_proj": 3.0})
    best = best_job(asked, facts)
    assert (best.recipe.method, best.recipe.bits, best.budget) == ("best", bits, asked.budget)
    assert (best.model, best.out, best.seed) == (asked.model, asked.out, 3)
    assert best.calibration == replace(asked.calibration, samples=512)
    assert best.tuning.stages and not asked.tuning.stages
    assert best_job(best, facts) == best


def test_what_is_ahead_of_rounding_is_trained_where_there_is_memory_for_it(facts, monkeypatch):
    assert best_job(job(), facts).tuning.stages == ("progressive", "end-to-end")
    monkeypatch.setattr("quip_engine.best.AHEAD", 3e6)
    assert best_job(job(), facts).tuning.stages == ("end-to-end",)


@pytest.mark.parametrize(("bytes_kept", "samples"), [(1e10, 8192), (131072 * 1000, 1000), (1, 64)])
def test_windows_to_tune_on_are_as_many_as_their_states_have_room(facts, monkeypatch, bytes_kept, samples):
    monkeypatch.setattr("quip_engine.best.STATES", bytes_kept)
    assert best_job(job(), facts).tuning.samples == samples  # 128 tokens, 256 numbers each


@pytest.mark.parametrize(("bytes_kept", "samples"), [(1e10, 512), (131072 * 7 * 300, 300), (1, 128)])
def test_windows_of_calibration_are_as_many_as_their_states_have_room(facts, monkeypatch, bytes_kept, samples):
    monkeypatch.setattr("quip_engine.best.CALIBRATED", bytes_kept)
    best = best_job(job(), facts)
    assert best.calibration.samples == samples  # 5 blocks, 128 tokens, 256 numbers each
    assert best_job(best, facts) == best


@pytest.mark.parametrize("samples", [64, 512, 1000])
def test_what_was_chosen_for_another_model_is_chosen_anew(facts, monkeypatch, samples):
    monkeypatch.setattr("quip_engine.best.CALIBRATED", 131072 * 7 * 300)
    before = replace(job(), calibration=CalibrationConfig("bundled", samples, 128))
    assert best_job(before, facts).calibration.samples == 300


@pytest.mark.parametrize(
    ("bits", "rate", "labels"), [(1.5, 0.008, 0.03), (2, 0.008, 0.03), (3, 0.004, 0.015), (5, 0.001, 0.0037)]
)
def test_small_errors_are_mended_in_small_steps_and_with_few_labels(facts, bits, rate, labels):
    tuning = best_job(job(bits), facts).tuning
    assert (tuning.rate, tuning.labels) == (rate, labels)


def test_steps_follow_the_bits_that_a_size_leaves(facts):
    assert 0.0015 < best_job(job(2, size=2_900_000), facts).tuning.rate < 0.002  # 4.2 bits


@pytest.mark.parametrize(("size", "embeddings"), [(1_900_000, 4), (2_900_000, 6), (3_500_000, 8)])
def test_a_size_is_shared_between_embeddings_and_layers(facts, size, embeddings):
    best = best_job(job(size=size), facts)
    assert best.budget.embeddings == embeddings
    assert settle(best.recipe, best.budget, facts).size == size


@pytest.mark.parametrize("size", [100_000, 50_000_000])
def test_a_size_that_cannot_be_is_refused_with_the_nearest_that_can(facts, size):
    with pytest.raises(QuipError) as caught:
        best_job(job(size=size), facts)
    assert caught.value.code == "BAD_TARGET"
    nearest = int(re.search(r"\((\d+) bytes\)", caught.value.hint)[1])
    assert best_job(job(size=nearest), facts).budget.embeddings == (4 if nearest > size else 0)


@pytest.mark.parametrize(("flags", "samples"), [([], 512), (["--samples", "128"], 128), (["--samples", "1000"], 1000)])
def test_windows_that_are_typed_stay(tmp_path, monkeypatch, flags, samples):
    checked = []
    monkeypatch.setattr(quantize, "_check", lambda job: fail("BUSY", name=checked.append(job), where=""))
    assert main(["quantize", str(DEMO), "--out", str(tmp_path / "out"), "--best", *flags]) != 0
    assert [job.calibration.samples for job in checked] == [samples]
    assert checked[0].recipe.method == "best"


@pytest.mark.parametrize(
    "flags", [["--method", "qtip"], ["--method", "quip#"], ["--tune", "pv"], ["--embeddings", "8"], ["--option", "L=8"]]
)
def test_nothing_else_is_chosen_beside_it(tmp_path, capsys, flags):
    assert main(["quantize", str(DEMO), "--out", str(tmp_path / "out"), "--best", *flags, "--json"]) != 0
    assert "--best" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
