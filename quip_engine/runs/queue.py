"""The queue: runs that wait for their turn, one worker at a time.

The worker that ends, done or failed, starts the next one itself, so the queue goes on with every page closed. A run
that was paused or stopped holds the queue until it is resumed or somebody calls ``proceed``. After a worker that died
without a word it goes on with ``settle``, which an open app calls all the time.
"""

from __future__ import annotations

from pathlib import Path

from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.runs.client import at_work, begin, starting
from quip_engine.runs.store import Run, Store


def enqueue(job: JobConfig, home: Path | None = None) -> Run:
    """Put a job behind all others; it starts at once where nothing works, waits or holds the queue."""
    store = Store(home)
    run = store.create(job, queued=True)
    advance(store.home)
    return store.get(run.id)


def advance(home: Path | None = None) -> Run | None:
    """Start the next run of the queue if it may start now. Returns the one that was started."""
    store = Store(home)
    with starting(store):
        waiting = store.queue()
        if not waiting or at_work(store) or holders(store.home):
            return None
        run = store.give_turn(waiting[0].id)
        begin(store, run)
    return store.get(run.id)


def proceed(home: Path | None = None) -> Run | None:
    """Let the queue go on although a run was paused or stopped; that run can still be resumed later."""
    store = Store(home)
    for run in holders(store.home):
        store.update(run.id, holds=0)
    return advance(store.home)


def holders(home: Path | None = None) -> list[Run]:
    """Runs the queue waits for: paused or stopped by somebody, and not resumed yet."""
    return [run for run in Store(home).list() if run.holds and not run.alive]


def move(run_id: str, by: int, home: Path | None = None) -> None:
    """Bring a waiting run ``by`` places forward (negative: back); at the ends it stays. Raises ``NOT_QUEUED``."""
    store = Store(home)
    with starting(store):
        waiting = store.queue()
        run = _waiting(store, run_id)
        at = [other.id for other in waiting].index(run.id)
        waiting.insert(max(0, at - by), waiting.pop(at))
        for place, other in enumerate(waiting, 1):
            store.update(other.id, place=place)


def remove(run_id: str, home: Path | None = None) -> None:
    """Take a waiting run out of the queue and the history; it has made nothing yet. Raises ``NOT_QUEUED``."""
    store = Store(home)
    with starting(store):
        run = _waiting(store, run_id)
        store.forget(run.id)
    run.directory.rmdir()


def _waiting(store: Store, run_id: str) -> Run:
    run = store.get(run_id)
    if run.status != "queued":
        fail("NOT_QUEUED", name=run.id, status=run.status)
    return run
