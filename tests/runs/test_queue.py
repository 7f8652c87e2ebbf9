"""The queue: an order on disk, and a worker that starts the next one itself."""

import pytest
from filelock import FileLock

from quip_engine.config import JobConfig
from quip_engine.errors import QuipError
from quip_engine.runs import Store, enqueue, proceed, queue


@pytest.fixture
def job(tmp_path):
    return JobConfig(model=str(tmp_path / "a-model"), out=str(tmp_path / "out"))


@pytest.fixture
def begun(monkeypatch):
    """The runs that were given a worker, instead of workers."""
    found = []
    monkeypatch.setattr(queue, "begin", lambda _store, run: found.append(run.id))
    return found


def waiting(store):
    return [run.id for run in store.queue()]


def busy(store, job):
    """A run with a lock that somebody holds."""
    run = store.create(job)
    store.update(run.id, status="running")
    return FileLock(run.directory / "worker.lock")


def test_while_something_works_others_wait_in_their_order(home, job, begun):
    store = Store()
    with busy(store, job):
        assert [enqueue(job).id for _ in range(3)] == ["run-2", "run-3", "run-4"]
        assert waiting(store) == ["run-2", "run-3", "run-4"]
        assert store.get("run-2").status == "queued" and not store.get("run-2").resumable
        assert queue.advance() is None
    assert begun == []
    assert proceed().id == "run-2"
    assert begun == ["run-2"] and waiting(store) == ["run-3", "run-4"]


def test_an_idle_queue_starts_at_once(home, job, begun):
    assert enqueue(job).status == "starting"
    assert begun == ["run-1"]


def test_the_order_can_be_changed_and_runs_taken_out(home, job, begun):
    store = Store()
    with busy(store, job):
        for _ in range(3):
            enqueue(job)
        queue.move("run-4", 1)
        assert waiting(store) == ["run-2", "run-4", "run-3"]
        queue.move("run-2", -5)
        assert waiting(store) == ["run-4", "run-3", "run-2"]
        queue.move("run-4", 1)
        assert waiting(store) == ["run-4", "run-3", "run-2"]
        directory = store.get("run-3").directory
        queue.remove("run-3")
        assert waiting(store) == ["run-4", "run-2"] and not directory.exists()
        with pytest.raises(QuipError) as caught:
            queue.move("run-1", 1)
    assert caught.value.code == "NOT_QUEUED"


def test_a_paused_run_holds_the_queue_until_told_otherwise(home, job, begun):
    store = Store()
    paused = store.create(job)
    store.update(paused.id, status="paused", holds=1)
    assert enqueue(job).status == "queued"
    assert [run.id for run in queue.holders()] == ["run-1"]
    assert queue.advance() is None and begun == []
    assert proceed().id == "run-2"
    assert store.get("run-1").resumable


def test_numbers_of_removed_runs_do_not_return(home, job, begun):
    store = Store()
    with busy(store, job):
        enqueue(job)
        queue.remove("run-2")
        assert enqueue(job).id == "run-3"
