"""The worker of an evaluation: ``python -m quip_engine.runs.evaluation_worker HOME NAME``

Like that of a run it takes the lock first, writes every event and leaves the last word in the history. There is
nothing to save on the way, so it ends where it stands when it is asked to, by a STOP note or a signal.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from quip_engine import events
from quip_engine.process import give_way, return_freed_memory, wait_patiently
from quip_engine.runs.defects import named
from quip_engine.runs.evaluation_store import Evaluation, EvaluationStore
from quip_engine.runs.last_words import failure
from quip_engine.runs.log import EventLog
from quip_engine.runs.queue import advance
from quip_engine.runs.worker import EXIT_STOPPED

LOOK = 0.2  # seconds between two looks for a STOP note


class StopNow(SystemExit):
    """Somebody wants an end. No ``except Exception`` on its way may keep it."""


def _stop_now(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StopNow


def main(home: Path, name: str) -> int:
    store = EvaluationStore(home)
    row = store.get(name)
    lock = FileLock(row.directory / "worker.lock", timeout=2)
    try:
        lock.acquire()
    except Timeout:
        return EXIT_STOPPED  # another worker has it
    with lock, contextlib.closing(EventLog(row.directory)) as log:
        status = _work(store, row, log)
    advance(store.home)
    return status


def _work(store: EvaluationStore, row: Evaluation, log: EventLog) -> int:
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop_now)
        threading.Thread(target=_watch, args=(row.directory / "STOP",), daemon=True).start()
        store.update(row.id, status="running", started=time.time())
        from quip_engine.assessment import evaluate_model  # noqa: PLC0415 - torch only once the lock is ours

        finished = None
        for event in evaluate_model(row.job):
            log.append(event)
            finished = event
        if not isinstance(finished, events.EvaluationFinished):
            raise RuntimeError("the evaluation ended without a result")
        store.update(row.id, status="done", finished=time.time(), result=events.to_json(finished))
        return 0
    except StopNow:
        log.append(events.RunStopped(block=0))
        store.update(row.id, status="stopped", finished=time.time())
        return EXIT_STOPPED
    except Exception as problem:
        error, status = named(problem)
        log.append(failure(error))
        store.update(row.id, status="failed", finished=time.time(), error=error.to_json())
        return status


def _watch(note: Path) -> None:
    """Turn a STOP note into the signal that the main thread hears between two operations."""
    while not note.exists():
        time.sleep(LOOK)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    wait_patiently()
    return_freed_memory()
    give_way()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
