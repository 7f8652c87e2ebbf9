"""History: what a row means depends on whether its worker lives."""

import time
from pathlib import Path

import pytest
from filelock import FileLock

from quip_engine.config import JobConfig
from quip_engine.errors import QuipError
from quip_engine.runs import Store, active, pause
from quip_engine.runs.client import start


@pytest.fixture
def job(tmp_path):
    return JobConfig(model=str(tmp_path / "a-model"), out=str(tmp_path / "out"))


def test_a_row_comes_back_whole(home, job):
    store = Store()
    run = store.create(job)
    assert (run.id, run.name, run.job) == ("run-1", "a-model quip# 2-bit", job)
    assert run.directory.is_dir()
    store.update(run.id, status="done", result={"bytes": 7})
    assert store.get("run-1").result == {"bytes": 7}
    assert [r.id for r in (store.create(job), *store.list())] == ["run-2", "run-2", "run-1"]


def test_a_row_that_can_be_seen_has_its_folder(home, job, monkeypatch):
    store, made = Store(), []

    def watched(folder, *given, **named):
        made.append((folder.name, [run.id for run in store.list()]))
        mkdir(folder, *given, **named)

    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", watched)
    run = store.create(job, queued=True)
    assert made == [(run.id, [])] and run.directory.is_dir()


def test_running_without_a_worker_is_interrupted(home, job):
    store = Store()
    run = store.create(job)
    store.update(run.id, status="running")
    assert store.get(run.id).status == "interrupted"
    assert store.get(run.id).resumable
    with FileLock(run.directory / "worker.lock"):
        assert store.get(run.id).status == "running"
        assert active().id == run.id
        pause(run.id)
        assert store.get(run.id).status == "stopping"


def test_a_start_that_never_took_its_lock_is_given_up(home, job):
    store = Store()
    run = store.create(job)
    assert store.get(run.id).status == "starting"
    store.update(run.id, created=time.time() - 3600)
    assert store.get(run.id).status == "interrupted"


def test_a_second_run_is_refused_by_name(home, job):
    store = Store()
    run = store.create(job)
    store.update(run.id, status="running")
    with FileLock(run.directory / "worker.lock"), pytest.raises(QuipError) as caught:
        start(job)
    assert caught.value.code == "BUSY"
    assert "a-model" in caught.value.message
    assert len(store.list()) == 1


@pytest.mark.parametrize("name", ["run-2", "../../etc", "run-1; drop table runs", ""])
def test_unknown_runs_are_named(home, job, name):
    Store().create(job)
    with pytest.raises(QuipError) as caught:
        Store().get(name)
    assert caught.value.code == "RUN_NOT_FOUND"


def test_a_run_is_renamed_noted_and_tagged(home, job):
    store = Store()
    store.create(job)
    run = store.describe(
        "run-1", name="  the  good one ", note="two\nlines ", tags=["best", " best ", "", "for the paper"]
    )
    assert (run.name, run.note, run.tags) == ("the good one", "two\nlines", ("best", "for the paper"))
    assert store.describe("run-1", tags=[]).name == "the good one"
    for wrong in (
        {"name": " "},
        {"name": "x" * 201},
        {"note": "\0"},
        {"tags": ["x" * 41]},
        {"tags": map(str, range(21))},
    ):
        with pytest.raises(QuipError) as caught:
            store.describe("run-1", **wrong)
        assert caught.value.code == "BAD_SETTING"


def test_a_history_of_the_first_version_is_brought_up_to_date(home, job):
    store = Store()
    store.create(job)
    with store.connect() as db:
        for column in ("note", "tags", "place", "holds", "pid", "killed", "turn"):
            db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
        db.execute("DROP TABLE evaluations")
        db.execute("PRAGMA user_version = 1")
    run = Store().get("run-1")
    assert (run.note, run.tags, run.place, run.holds, run.pid) == ("", (), None, False, None)
