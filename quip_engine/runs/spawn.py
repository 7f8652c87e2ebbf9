"""Start a worker: a process of its own that outlives this one and owns one directory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import quip_engine
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
    threading.Thread(target=worker.wait, daemon=True).start()  # collect its exit status: no zombie
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        if is_locked(directory / "worker.lock"):
            return
        time.sleep(0.02)
