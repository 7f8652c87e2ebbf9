"""The worker: one process, one run. ``python -m quip_engine.runs.worker HOME RUN_ID``

It takes the run's lock before anything heavy is imported, turns every event of the pipeline into a line of the log,
and leaves the last word in the history: done, paused or stopped (exit 75) or failed (exit 2; 1 for a defect of ours).
After done and failed it starts the next run of the queue.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from quip_engine import events
from quip_engine.errors import QuipError, Stopped
from quip_engine.files import discard
from quip_engine.process import give_way, killed_for_memory, return_freed_memory, wait_patiently
from quip_engine.runs import last_words
from quip_engine.runs.defects import named
from quip_engine.runs.log import EventLog
from quip_engine.runs.queue import advance
from quip_engine.runs.store import Run, Store

EXIT_STOPPED = 75
ANSWER, LAST_WORDS = 15.0, 3.0  # seconds after a first signal until it counts as not heard; after a second one


class StopNow(SystemExit):
    """SIGTERM or SIGINT arrived. No ``except Exception`` on its way keeps it, nor what lets only exits pass."""


def _stop_now(_number: int, _frame: FrameType | None) -> None:
    _on_signals(_nothing)
    raise StopNow


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """While the last words are said."""


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _end_if_unheard() -> None:
    """End the process where a signal is not heard, in a long kernel perhaps; finished blocks are safe at any time."""
    heard, arrived = os.pipe()
    os.set_blocking(arrived, False)
    signal.set_wakeup_fd(arrived)

    def watch() -> None:
        os.read(heard, 1)
        select.select([heard], [], [], ANSWER)
        time.sleep(LAST_WORDS)
        os._exit(EXIT_STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def main(home: Path, run_id: str) -> int:
    _on_signals(lambda *_: sys.exit(EXIT_STOPPED))  # nothing was begun yet
    store = Store(home)
    run = store.get(run_id)
    lock = FileLock(run.directory / "worker.lock", timeout=2)
    try:
        lock.acquire()
    except Timeout:
        return EXIT_STOPPED  # another worker has it: nothing of this run is ours to touch
    _end_if_unheard()
    with lock, contextlib.closing(EventLog(run.directory, run.turn)) as log:
        status = _work(store, run, log)
    if status != EXIT_STOPPED:
        with contextlib.suppress(QuipError):  # a full disk: an open app will do it
            advance(store.home)
    return status


def _work(store: Store, run: Run, log: EventLog) -> int:
    try:
        _on_signals(_stop_now)
        beginning = {"finished": None, "error": None, "pid": os.getpid(), "killed": killed_for_memory()}
        store.update(run.id, status="running", started=time.time(), **beginning)
        finished = last_words.finished(run) or _quantize(run, log)
        _on_signals(_nothing)
        return _done(store, run, finished)
    except Stopped as stopped:
        _tell(log, events.RunStopped(block=stopped.args[0]))
        _last_word(store, run, "paused", holds=1)
        return EXIT_STOPPED
    except StopNow:
        if result := last_words.finished(run):  # it came while the last of it was cleared up
            return _done(store, run, result)
        _tell(log, events.RunStopped(block=log.saved_blocks()))
        _last_word(store, run, "stopped", holds=1)
        return EXIT_STOPPED
    except Exception as problem:
        error, status = named(problem)
        _tell(log, last_words.failure(error))
        _last_word(store, run, "failed", error=error.to_json())
        return status


def _done(store: Store, run: Run, finished: events.RunFinished) -> int:
    discard(run.directory / "work")  # if it is there still: a worker may have ended in its last moment
    _last_word(store, run, "done", result=events.to_json(finished))
    return 0


def _tell(log: EventLog, event: events.Event) -> None:
    """The last event; a disk that is full is so for it, too."""
    with contextlib.suppress(QuipError):
        log.append(event)


def _quantize(run: Run, log: EventLog) -> events.RunFinished:
    from quip_engine.pipeline import quantize_model  # noqa: PLC0415 - torch only once the lock is ours

    note = run.directory / "STOP"
    finished: events.RunFinished | None = None
    for event in quantize_model(run.job, run.directory / "work", note.exists):
        if isinstance(event, events.RunFinished):
            finished = replace(event, seconds=event.seconds + log.seconds_before())
            log.append(finished)
        else:
            log.append(event)
    if finished is None:
        raise RuntimeError("the pipeline ended without a result")
    return finished


def _last_word(store: Store, run: Run, status: str, **columns: Any) -> None:
    """Where the history cannot be written ``settle`` finds it in the log."""
    with contextlib.suppress(QuipError):
        store.update(run.id, status=status, finished=time.time(), pid=None, **columns)


if __name__ == "__main__":
    wait_patiently()
    return_freed_memory()
    give_way()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
