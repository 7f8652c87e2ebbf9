"""What is said of workers that died without a word, by what they left on the disk."""

import time

import pytest
from filelock import FileLock

from quip_engine import events
from quip_engine.config import JobConfig
from quip_engine.runs import EventLog, Store, Tail, last_words, queue, settle

YEAR = 365 * 86400.0
RESULT = events.RunFinished("out", "quip#", 2, 2.1, 10, 1.0, 1.0, 0.1)


@pytest.fixture
def dead(home, tmp_path):
    """A run whose worker is gone."""
    store = Store()
    run = store.create(JobConfig(str(tmp_path / "model"), str(tmp_path / "out")))
    store.update(run.id, status="running", started=time.time() - 1, pid=7, killed=3)
    (run.directory / "worker.lock").touch()
    return store.get(run.id)


def say(run, *said):
    log = EventLog(run.directory, run.turn)
    for event in said:
        log.append(event)
    log.close()


def last(run):
    return events.from_json(Tail(run.directory).read()[-1])


def test_a_death_without_a_word_has_a_name(dead, monkeypatch):
    monkeypatch.setattr(last_words, "killed_for_memory", lambda: 3)
    (run,) = settle()
    assert (run.status, run.error["error"], run.pid, run.resumable) == ("interrupted", "WORKER_DIED", None, True)
    assert last(run).code == "WORKER_DIED"
    assert settle() == []


def test_a_death_for_want_of_memory_is_told_apart(dead, monkeypatch):
    monkeypatch.setattr(last_words, "killed_for_memory", lambda: 4)
    assert settle()[0].error["error"] == "HOST_MEMORY"


def test_what_the_log_says_counts(dead):
    say(dead, events.RunFailed("DISK_FULL", "Full.", "Free space."))
    assert settle()[0].status == "failed"
    Store().update(dead.id, status="running", started=time.time() - 1, finished=None, error=None)
    say(dead, RESULT)
    run = settle()[0]
    assert run.status == "done" and run.result["bits_per_weight"] == 2.1


def test_the_words_of_an_earlier_worker_do_not_count(dead):
    say(dead, events.RunStopped(0))
    Store().give_turn(dead.id)
    Store().update(dead.id, status="running", started=time.time() - YEAR)  # whatever the time of day
    assert settle()[0].status == "interrupted"


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_last_word_counts_after_the_time_of_day_has_jumped(dead, jump):
    Store().update(dead.id, started=time.time() + jump)
    say(dead, events.RunFailed("DISK_FULL", "Full.", "Free space."))
    assert settle()[0].error["error"] == "DISK_FULL"


def test_who_was_asked_to_end_is_stopped_and_holds_the_queue(dead, monkeypatch):
    begun = []
    monkeypatch.setattr(queue, "begin", lambda _store, run: begun.append(run.id))
    waiting = Store().create(dead.job, queued=True)
    (dead.directory / "STOP").touch()
    run = settle()[0]
    assert (run.status, run.holds, begun) == ("stopped", True, [])
    Store().give_turn(dead.id)
    Store().update(dead.id, status="running")
    (dead.directory / "STOP").unlink()
    settle()
    assert begun == [waiting.id]


def test_the_living_are_left_alone(dead):
    with FileLock(dead.directory / "worker.lock"):
        assert settle() == []
    assert Store().get(dead.id).finished is None


def test_there_is_something_to_do_only_for_the_lost_and_for_an_idle_queue(dead):
    store = Store()
    assert last_words.unsettled(store.list())
    settle()
    assert not last_words.unsettled(store.list())
    store.create(dead.job, queued=True)
    assert last_words.unsettled(store.list())
    store.update(dead.id, status="paused", holds=1)
    assert not last_words.unsettled(store.list())


def test_who_settles_is_not_taken_for_a_worker(dead, monkeypatch):
    seen = []

    def slow_cause(run):
        time.sleep(0.2)  # longer than who asks for a lock lets others ask
        seen.append(Store().get(run.id).status)
        return cause(run)

    cause = last_words._cause
    monkeypatch.setattr(last_words, "_cause", slow_cause)
    assert settle()[0].status == "interrupted"
    assert seen == ["interrupted"]


def test_a_run_that_begins_anew_while_it_is_settled_is_left_alone(dead, monkeypatch):
    lose = Store.lose

    def slowly(store, run):
        lose(store, run)
        store.give_turn(run.id)

    monkeypatch.setattr(Store, "lose", slowly)
    assert settle() == []
    assert Store().get(dead.id).status == "starting" and not Tail(dead.directory).read()


def test_who_went_on_meanwhile_is_not_lost(dead):
    store = Store()
    store.update(dead.id, turn=dead.turn + 1)
    store.lose(dead)
    with store.connect() as db:
        assert db.execute("SELECT status FROM runs").fetchone()[0] == "running"
