"""Evaluations are started, stopped and found again; one worker at a time works on anything."""

import json
import os
import time
from dataclasses import replace

import pytest
from filelock import FileLock
from helpers import made_up_text, tiny_model

from quip_engine.config import EvaluationConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.runs import Store, Tail, evaluations, start
from quip_engine.runs.evaluation_store import EvaluationStore, content_of, key_of

SECONDS = 120


@pytest.fixture
def job(tmp_path):
    text = tmp_path / "story.txt"
    text.write_text(made_up_text(4000))
    folder = str(tiny_model(tmp_path, "llama"))
    return EvaluationConfig(folder, folder, str(text), seqlen=32, windows=6, layers=False, device="cpu", threads=1)


def done(job, store, **figures):
    """A row with a result, as a worker would leave it."""
    row = store.create(job)
    store.update(row.id, status="done", finished=time.time(), result={"figures": figures})
    return store.get(row.id)


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def test_a_row_comes_back_whole(home, job):
    store = EvaluationStore()
    row = store.create(job)
    assert (row.id, row.name, row.job, row.status) == ("eval-1", "tiny-llama", job, "starting")
    assert row.directory == home / "evaluations" / "eval-1"
    assert evaluations.history() == [row]
    assert done(job, store, perplexity=2.0).result["figures"]["perplexity"] == 2.0
    evaluations.delete("eval-2")
    assert [row.id for row in evaluations.history()] == ["eval-1"]
    assert not (home / "evaluations" / "eval-2").exists()
    assert store.create(job).id == "eval-3"  # numbers never return


@pytest.mark.parametrize("name", ["eval-7", "run-1", "../../etc", ""])
def test_unknown_evaluations_are_named(home, name):
    for call in (evaluations.get, evaluations.stop, evaluations.delete):
        with pytest.raises(QuipError) as caught:
            call(name)
        assert caught.value.code == "EVALUATION_NOT_FOUND"


def test_one_worker_at_a_time_on_runs_and_evaluations(home, job):
    store = EvaluationStore()
    row = store.create(job)
    store.update(row.id, status="running")
    assert evaluations.active() is None
    assert evaluations.get(row.id).status == "interrupted"
    quantize = JobConfig(job.model, str(home / "out"))
    with FileLock(row.directory / "worker.lock"):
        assert evaluations.active().id == "eval-1"
        for begin in (lambda: start(quantize), lambda: evaluations.start(job)):
            with pytest.raises(QuipError) as caught:
                begin()
            assert caught.value.code == "BUSY"
            assert "eval-1" in caught.value.message
        with pytest.raises(QuipError):
            evaluations.delete("eval-1")
        evaluations.stop("eval-1")
        assert evaluations.get("eval-1").status == "stopping"
    run = Store().create(quantize)
    Store().update(run.id, status="running")
    with FileLock(run.directory / "worker.lock"), pytest.raises(QuipError) as caught:
        evaluations.start(job)
    assert "run-1" in caught.value.message
    assert len(evaluations.history()) == 1


def test_equal_evaluations_are_found_again(home, job, tmp_path):
    store = EvaluationStore()
    row = done(job, store)
    assert evaluations.start(job) == row  # no worker
    assert store.same(replace(job, threads=2)) == row
    for other in ({"seqlen": 16}, {"windows": None}, {"against": ""}, {"layers": True}, {"tasks": ("piqa",)}):
        assert store.same(replace(job, **other)) is None
    copy = tmp_path / "copy.txt"
    copy.write_bytes((tmp_path / "story.txt").read_bytes())
    assert key_of(replace(job, text=str(copy))) == row.key  # another name, the same words
    copy.write_text("other words")
    assert key_of(replace(job, text=str(copy))) != row.key


def test_the_latest_result_of_a_folder_is_that_of_its_content(home, job, tmp_path):
    store, folder = EvaluationStore(), tmp_path / "tiny-llama"
    assert evaluations.latest_for(folder) is None
    compared = done(job, store)
    assert done(replace(job, against=""), store).id == "eval-2"
    assert evaluations.latest_for(folder) == compared  # what was compared says more
    weights = folder / "model.safetensors"
    os.utime(weights, (1, 1))
    assert evaluations.latest_for(folder) is None
    assert evaluations.latest_for(tmp_path / "gone") is None


def test_a_checkpoint_is_known_by_its_manifest(tmp_path):
    folder = tiny_model(tmp_path)
    (folder / "quip_manifest.json").write_text(json.dumps({"files": {"a": 1}}))
    before = content_of(str(folder))
    os.utime(folder / "model.safetensors", (1, 1))
    assert content_of(str(folder)) == before  # a copy is the same model
    (folder / "quip_manifest.json").write_text(json.dumps({"files": {"a": 2}}))
    assert content_of(str(folder)) != before
    assert content_of("owner/name") == "hub:owner/name"


def test_a_worker_measures_and_another_is_stopped(home, job):
    row = evaluations.start(job)
    assert row.status in ("starting", "running")
    finished = wait_for(lambda: not (now := evaluations.get(row.id)).alive and now)
    assert finished.status == "done", finished.error
    assert finished.result["figures"]["top1_agreement"] == 1.0
    assert finished.result["figures"]["mean_kl"] == 0.0
    types = [record["type"] for record in Tail(row.directory).read()]
    assert types == ["EvaluationStarted", *["WindowScored"] * 6, *["BlockCompared"] * 2, "EvaluationFinished"]

    row = evaluations.start(replace(job, windows=None, layers=True))
    wait_for(lambda: any(record["type"] == "WindowScored" for record in Tail(row.directory).read()))
    evaluations.stop(row.id)
    assert wait_for(lambda: not (now := evaluations.get(row.id)).alive and now).status == "stopped"
    assert Tail(row.directory).read()[-1]["type"] == "RunStopped"


def test_a_failed_evaluation_says_why(home, job, monkeypatch):
    row = evaluations.start(replace(job, seqlen=65))  # longer than the model's context
    failed = wait_for(lambda: not (now := evaluations.get(row.id)).alive and now)
    assert (failed.status, failed.error["error"]) == ("failed", "BAD_SETTING")
    assert "seqlen" in failed.error["message"]
