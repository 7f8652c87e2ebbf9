"""How others use runs: start a worker, pause it, stop it, resume it. Never blocks on the work itself.

    pause   a note in the run's directory; the worker ends after the current layer (status ``paused``)
    stop    a signal; the worker ends at once, within three seconds (status ``stopped``)

Both keep every finished block, both let ``resume`` go on after the last of them, and both hold the queue.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import psutil
from filelock import FileLock

from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.runs.evaluation_store import Evaluation, EvaluationStore
from quip_engine.runs.last_words import settle
from quip_engine.runs.spawn import spawn
from quip_engine.runs.store import Run, Store

STOP_SECONDS, KILL_SECONDS = 2.0, 0.8  # for the worker to end by itself, then for the system to end it


def start(job: JobConfig, home: Path | None = None) -> Run:
    """Make a run and its worker process, which outlives this one. Raises ``BUSY`` while another is working."""
    store = Store(home)
    with starting(store):
        refuse_second(store)
        run = store.create(job)
        begin(store, run)
    return store.get(run.id)


def resume(run_id: str, home: Path | None = None, *, force: bool = False) -> Run:
    """Let a new worker go on where the last one stopped, after its last finished block.

    ``force``: from now on although disk or memory seem too small.
    """
    store = Store(home)
    with starting(store):
        refuse_second(store)
        run = store.get(run_id)
        if not run.resumable:
            fail("NOTHING_TO_RESUME", path=run.job.out)
        (run.directory / "STOP").unlink(missing_ok=True)
        if force:
            store.update(run.id, job=replace(run.job, force=True).to_json())
        begin(store, store.give_turn(run.id))
    return store.get(run.id)


def pause(run_id: str, home: Path | None = None) -> None:
    """Ask the worker to stop after the current layer. Finished blocks stay, the run can be resumed."""
    run = Store(home).get(run_id)
    if run.alive:
        (run.directory / "STOP").touch()


def stop(run_id: str, home: Path | None = None) -> None:
    """End the worker now, with everything it has started; returns when it is gone. Finished blocks stay."""
    store = Store(home)
    deadline = time.monotonic() + STOP_SECONDS
    while (run := store.get(run_id)).alive and run.pid is None and time.monotonic() < deadline:
        time.sleep(0.02)  # it has its lock, and tells its number next
    if not run.alive:
        return
    if run.pid is None:  # a machine so busy that the worker has not begun: it will see the note
        (run.directory / "STOP").touch()
        return
    store.update(run.id, holds=1)  # should it not be able to say so itself
    try:
        worker = psutil.Process(run.pid)
        family = [worker, *worker.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        _signal(process, "terminate")
    _, left = psutil.wait_procs(family, STOP_SECONDS)
    for process in left:
        _signal(process, "kill")
    psutil.wait_procs(left, KILL_SECONDS)
    settle(store.home)


def active(home: Path | None = None) -> Run | None:
    """The run that a worker is busy with now, if any."""
    return next((run for run in Store(home).list() if run.alive), None)


def starting(store: Store) -> FileLock:
    """Held by whoever starts a worker, so that there is only one."""
    return FileLock(store.home / "start.lock")


def at_work(store: Store) -> Run | Evaluation | None:
    """What a worker is busy with now, if any."""
    return active(store.home) or EvaluationStore(store.home).active()


def refuse_second(store: Store) -> None:
    """Raises ``BUSY`` while a worker is at work, on a run or on an evaluation."""
    if busy := at_work(store):
        fail("BUSY", name=busy.name, where=f" ({busy.id})")


def begin(store: Store, run: Run) -> None:
    """Give a run its worker."""
    spawn("quip_engine.runs.worker", store.home, run.id, run.directory)


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return
