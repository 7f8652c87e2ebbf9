"""The process of one export or push: ``python -m quip_engine.runs.transfer_worker HOME RUN_ID``, order on stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from quip_engine.errors import QuipError
from quip_engine.files import write_json
from quip_engine.runs.sharing import LOCK, NAME, Transfer, export_run, push_run
from quip_engine.runs.store import Run, Store

EVERY = 0.5  # seconds between two notes of progress


class Notes:
    """What the process says of itself, on disk."""

    def __init__(self, path: Path, transfer: Transfer) -> None:
        self.path, self.transfer, self._last = path, transfer, 0.0
        self.say()

    def say(self, **changes: Any) -> None:
        self.transfer = replace(self.transfer, **changes)
        write_json(self.path, asdict(self.transfer))

    def progress(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= EVERY or done == total:
            self._last = time.monotonic()
            self.say(done=done, total=total)


def main(home: Path, run_id: str, order: dict[str, Any]) -> int:
    run = Store(home).get(run_id)
    try:
        with FileLock(run.directory / LOCK, timeout=2):
            transfer = Transfer(**{**order["transfer"], "pid": os.getpid(), "time": time.time(), "status": "working"})
            notes = Notes(run.directory / NAME, transfer)
            return _work(home, run, notes, order["token"])
    except Timeout:
        return 75  # another has it


def _work(home: Path, run: Run, notes: Notes, token: str) -> int:
    wanted = notes.transfer
    try:
        if wanted.kind == "push":
            address = push_run(run, wanted.target, notes.progress, token=token, private=wanted.private, home=home)
        else:
            export_run(run, Path(wanted.target), notes.progress, link=wanted.link, home=home)
            address = wanted.target
        notes.say(status="done", address=address, done=notes.transfer.total)
        return 0
    except QuipError as error:
        notes.say(status="failed", error={**error.to_json(), "details": error.details})
        return 2
    except Exception as defect:  # its text may quote what was sent, and a token is never written
        named = QuipError("DEFECT", f"{type(defect).__name__}.", "This is a defect of QuIP Studio.")
        notes.say(status="failed", error=named.to_json())
        return 1


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(75)  # unwinds: a half-made folder is removed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin)))
