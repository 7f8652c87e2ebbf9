"""The event log of a run: one JSON object a line, only ever appended.

A line counts once its newline is there; a worker that dies in the middle of a line leaves a tail that readers ignore
and the next worker cuts off.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from quip_engine import events
from quip_engine.files import named_errors

NAME = "events.jsonl"
DURABLE = (events.RunStarted, events.BlockSaved, events.RunFinished, events.RunStopped, events.RunFailed)


class EventLog:
    """The writer's end. Belongs to the worker that holds the run's lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._cut_torn_line()
        self._seq = sum(1 for _ in self._path.open("rb")) if self._path.exists() else 0
        self._file = self._path.open("ab", buffering=0)
        self._bytes = self._file.tell()

    def append(self, event: events.Event) -> None:
        """Raises ``DISK_FULL`` and ``IO_ERROR``; nothing of the event is in the log then."""
        record = {"seq": self._seq, "time": round(time.time(), 3), **events.to_json(event)}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with named_errors(self._path, len(line)):
            try:
                self._write(line)
                if isinstance(event, DURABLE):
                    os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._bytes)
                raise
        self._bytes += len(line)
        self._seq += 1

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:  # a disk that fills up takes a part of it first
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()

    def saved_blocks(self) -> int:
        """Blocks that this run has finished so far, under all its workers."""
        records = Tail(self._path.parent).read()
        return len({record["block"] for record in records if record["type"] == events.BlockSaved.__name__})

    def _cut_torn_line(self) -> None:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)


class Tail:
    """A reader's end: what is new since the last ``read``, from the start or from now on."""

    def __init__(self, directory: Path, *, from_end: bool = False) -> None:
        self._path = directory / NAME
        self._offset = 0
        if from_end:
            self.read()

    def read(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
