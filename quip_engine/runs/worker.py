"""The worker: one process, one run. ``python -m quip_engine.runs.worker HOME RUN_ID``

It takes the run's lock before anything heavy is imported, turns every event of the pipeline into a line of the log,
and leaves the last word in the history: done, paused or stopped (exit 75) or failed (exit 2; 1 for a defect of ours).
After done and failed it starts the next run of the queue.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from quip_engine import events
from quip_engine.errors import CATALOGUE, QuipError, Stopped
from quip_engine.process import return_freed_memory, wait_patiently
from quip_engine.runs.log import EventLog
from quip_engine.runs.queue import advance
from quip_engine.runs.store import Run, Store

EXIT_STOPPED = 75
NICENESS = 5  # the page and the person come first


class StopNow(BaseException):
    """SIGTERM or SIGINT arrived. No ``except Exception`` on its way may keep it."""


def _stop_now(_number: int, _frame: FrameType | None) -> None:
    _on_signals(signal.SIG_IGN)
    raise StopNow


def _on_signals(handler: Any) -> None:
    """``SIG_IGN`` for the last words: who cannot wait for them sends SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def main(home: Path, run_id: str) -> int:
    store = Store(home)
    run = store.get(run_id)
    lock = FileLock(run.directory / "worker.lock", timeout=2)
    try:
        lock.acquire()
    except Timeout:
        return EXIT_STOPPED  # another worker has it: nothing of this run is ours to touch
    with lock, contextlib.closing(EventLog(run.directory)) as log:
        status = _work(store, run, log)
    if status != EXIT_STOPPED:
        advance(store.home)
    return status


def _work(store: Store, run: Run, log: EventLog) -> int:
    note = run.directory / "STOP"
    try:
        _on_signals(_stop_now)
        store.update(run.id, status="running", started=time.time(), pid=os.getpid())
        from quip_engine.pipeline import quantize_model  # noqa: PLC0415 - torch only once the lock is ours

        finished = None
        for event in quantize_model(run.job, run.directory / "work", note.exists):
            log.append(event)
            finished = event
        if not isinstance(finished, events.RunFinished):
            raise RuntimeError("the pipeline ended without a result")
        _on_signals(signal.SIG_IGN)
        _last_word(store, run, "done", result=events.to_json(finished))
        return 0
    except Stopped as stopped:
        log.append(events.RunStopped(block=stopped.args[0]))
        _last_word(store, run, "paused", holds=1)
        return EXIT_STOPPED
    except StopNow:
        log.append(events.RunStopped(block=log.saved_blocks()))
        _last_word(store, run, "stopped", holds=1)
        return EXIT_STOPPED
    except QuipError as error:
        return _failed(store, run, log, error, 2)
    except MemoryError:
        message, hint = CATALOGUE["HOST_MEMORY"]
        return _failed(store, run, log, QuipError("HOST_MEMORY", message.format(where=""), hint), 2)
    except Exception as defect:
        traceback.print_exc()
        message = f"{type(defect).__name__}: {defect}"
        hint = "This is a defect of QuIP Studio; finished blocks are saved."
        return _failed(store, run, log, QuipError("DEFECT", message, hint, traceback.format_exc()), 1)


def _failed(store: Store, run: Run, log: EventLog, error: QuipError, status: int) -> int:
    log.append(events.RunFailed(error.code, error.message, error.hint, error.details))
    _last_word(store, run, "failed", error=error.to_json())
    return status


def _last_word(store: Store, run: Run, status: str, **columns: Any) -> None:
    store.update(run.id, status=status, finished=time.time(), pid=None, **columns)


if __name__ == "__main__":
    wait_patiently()
    return_freed_memory()
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))  # a worker that was started by a worker has it already
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
