"""The event log of a run: one JSON object a line, only ever appended.

A line counts once its newline is there; a worker that dies in the middle of a line leaves a tail that readers ignore
and the next worker cuts off. Besides the event it holds

    seq     its place in the log
    turn    whose line it is: the number of the worker's turn in the history
    time    of day, for people: it may jump
    tick    seconds of a clock that does not, since this machine was started
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
ENDS = (events.RunFinished, events.RunStopped, events.RunFailed)
DURABLE = (events.RunStarted, events.BlockSaved, events.TuningFinished, *ENDS)


class EventLog:
    """The writer's end. Belongs to the worker that holds the run's lock."""

    def __init__(self, directory: Path, turn: int = 0) -> None:
        self._path, self._turn = directory / NAME, turn
        self._file = self._path.open("ab", buffering=0)
        self._count()

    def append(self, event: events.Event) -> None:
        """Raises ``DISK_FULL`` and ``IO_ERROR``; nothing of the event is in the log then."""
        if os.fstat(self._file.fileno()).st_size != self._bytes:
            self._count()  # a signal had come in the middle of the last event
        when = {"time": round(time.time(), 3), "tick": round(time.monotonic(), 3)}
        record = {"seq": self._seq, "turn": self._turn, **when, **events.to_json(event)}
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
        return len(finished_blocks(Tail(self._path.parent).read()))

    def seconds_before(self) -> float:
        """What the workers before this one were at work, each from its first event to its last."""
        ticks: dict[int, list[float]] = {}
        for record in Tail(self._path.parent).read():
            ticks.setdefault(record["turn"], []).append(record["tick"])
        return sum(max(seen) - min(seen) for turn, seen in ticks.items() if turn != self._turn)

    def _count(self) -> None:
        """Cut off a torn line; ``_seq``: whole ones, ``_bytes``: of them."""
        data = self._path.read_bytes()
        self._seq, self._bytes = data.count(b"\n"), data.rfind(b"\n") + 1
        if self._bytes < len(data):
            self._file.truncate(self._bytes)


def finished_blocks(records: list[dict[str, Any]]) -> set[int]:
    """Those a worker has told of, and those the next one found done: some end between a block and its event."""
    told = {record["block"] for record in records if record["type"] == events.BlockSaved.__name__}
    found = max((r["resumed_at"] for r in records if r["type"] == events.RunStarted.__name__), default=0)
    return told | set(range(found))


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
