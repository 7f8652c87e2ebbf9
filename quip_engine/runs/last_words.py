"""The last word of workers that could not say it: killed by a person, by the system, or with the machine.

Whoever looks after runs calls ``settle``: the process that started a worker when it ends, the command line that
follows one, the app all the time. A run whose worker is gone is

    done, failed   where its last event says so
    stopped        where it says so, or somebody had asked for that; it holds the queue
    interrupted    otherwise, with HOST_MEMORY or WORKER_DIED; the queue goes on

and in all cases it has what it had finished.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quip_engine import events
from quip_engine.errors import CATALOGUE, QuipError
from quip_engine.files import discard
from quip_engine.process import killed_for_memory
from quip_engine.runs.defects import out_of_memory
from quip_engine.runs.log import EventLog, Tail
from quip_engine.runs.store import Run, Store

PATIENCE = 2.0  # seconds for another one who settles the same run


def settle(home: Path | None = None) -> list[Run]:
    """Say what dead workers could not say, and let the queue go on. Returns the runs that were settled."""
    from quip_engine.runs.queue import advance  # noqa: PLC0415 - which starts workers, whose starter settles

    store = Store(home)
    settled = [run for run in store.list() if lost(run) and _settle(store, run)]
    if settled or store.queue():
        advance(store.home)
    return [store.get(run.id) for run in settled]


def lost(run: Run) -> bool:
    """Whether a worker of this run has ended without a word."""
    return run.status == "interrupted" and run.finished is None


def unsettled(runs: list[Run]) -> bool:
    """Whether there is anything for ``settle`` to do: a worker that is lost, or a queue that nobody works on."""
    waiting = any(run.status == "queued" for run in runs) and not any(run.alive or run.holds for run in runs)
    return waiting or any(map(lost, runs))


def finished(run: Run) -> events.RunFinished | None:
    """What the log ends with, where that is a result: the work is done, whatever the history says."""
    record = _last_record(run)
    event = events.from_json(record) if record else None
    return event if isinstance(event, events.RunFinished) else None


def _said(run: Run) -> events.Event | None:
    """The last event, if it is of the worker that is gone and not of one before."""
    record = _last_record(run)
    return events.from_json(record) if record and record.get("turn", 0) == run.turn else None


def _last_record(run: Run) -> dict[str, Any] | None:
    records = Tail(run.directory).read()
    return records[-1] if records else None


def _settle(store: Store, run: Run) -> bool:
    store.lose(run)  # first: to others, the lock taken next looks like a worker
    try:
        with FileLock(run.directory / "worker.lock", timeout=PATIENCE):
            now = store.get(run.id)
            if now.finished is not None or now.turn != run.turn:  # said, or somebody has resumed it meanwhile
                return False
            _say(store, now)
            return True
    except Timeout:  # a worker has it
        return False


def _say(store: Store, run: Run) -> None:
    event, asked = finished(run) or _said(run), run.holds or (run.directory / "STOP").exists()
    if not isinstance(event, events.RunFinished | events.RunFailed | events.RunStopped):
        with closing(EventLog(run.directory, run.turn)) as log:
            error = None if asked else _cause(run)
            event = events.RunStopped(log.saved_blocks()) if error is None else failure(error)
            log.append(event)
        status = "interrupted"
    else:
        status = "failed"
    columns: dict[str, Any] = {"finished": time.time(), "pid": None}
    match event:
        case events.RunFinished():
            discard(run.directory / "work")
            columns |= {"status": "done", "result": events.to_json(event)}
        case events.RunStopped():
            columns |= {"status": "stopped", "holds": 1}
        case events.RunFailed():
            words = {"error": event.code, "message": event.message, "hint": event.hint}
            columns |= {"status": status, "error": words}
    store.update(run.id, **columns)


def failure(error: QuipError) -> events.RunFailed:
    """An error as the last event of a run."""
    return events.RunFailed(error.code, error.message, error.hint, error.details)


def _cause(run: Run) -> QuipError:
    killed = killed_for_memory()
    if run.killed is not None and killed is not None and killed > run.killed:
        return out_of_memory(": the system has ended the worker")
    message, hint = CATALOGUE["WORKER_DIED"]
    return QuipError("WORKER_DIED", message.format(reason=f"; its log is {run.directory / 'worker.log'}"), hint)
