"""Start a worker: a process of its own that outlives this one and owns one directory."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import quip_engine
from quip_engine.errors import QuipError
from quip_engine.runs.store import START_SECONDS, is_locked


def spawn(module: str, home: Path, name: str, directory: Path) -> None:
    """Start ``python -m module HOME NAME`` in a session of its own; wait until it holds the lock of ``directory``."""
    package_parent = str(Path(quip_engine.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    with (directory / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", module, str(home), name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # and what Windows has instead
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    threading.Thread(target=_await, args=(worker, home), daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        if is_locked(directory / "worker.lock"):
            return
        time.sleep(0.02)


def _await(worker: subprocess.Popen[bytes], home: Path) -> None:
    """Collect the exit status, so that there is no zombie, and say what a worker that was killed could not say."""
    from quip_engine.runs.last_words import settle  # noqa: PLC0415 - which starts the next of the queue

    worker.wait()
    with contextlib.suppress(OSError, sqlite3.Error, QuipError):  # the data directory may be gone, or its disk full
        settle(home)
