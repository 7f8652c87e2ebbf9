"""What the app knows about evaluations: like runs, the truth on disk folded into views, for all pages alike."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.state import tick
from quip_engine import events
from quip_engine.config import EvaluationConfig
from quip_engine.runs import Tail, evaluations
from quip_engine.runs.evaluation_store import Evaluation, EvaluationStore

LOOK = 0.3  # seconds between two looks at the disk, however many pages ask


@dataclass
class EvaluationView:
    """Everything an evaluation has said so far. ``fold`` is the only writer."""

    row: Evaluation
    started: events.EvaluationStarted | None = None
    scored: list[events.WindowScored] = field(default_factory=list)
    layers: int = 0  # passes with one layer alone so far
    tasks: list[events.TaskScored] = field(default_factory=list)
    failed: events.RunFailed | None = None
    begun: float = 0.0  # when the first window began, by the clock that ``tick`` tells

    def fold(self, record: dict[str, Any]) -> None:
        """Take one record of the log in; those of an unknown type change nothing."""
        try:
            event = events.from_json(record)
        except KeyError:
            return
        match event:
            case events.EvaluationStarted():
                self.started, self.begun = event, tick(record)
            case events.WindowScored():
                self.scored.append(event)
            case events.LayerCompared():
                self.layers += 1
            case events.TaskScored():
                self.tasks.append(event)
            case events.RunFailed():
                self.failed = event

    @property
    def passes(self) -> int:
        """Passes of one layer alone that there will be."""
        return len(self.started.layers) * self.started.layer_windows if self.started else 0

    @property
    def share(self) -> float:
        """How much is done: windows and layers, each pass alike."""
        if self.started is None:
            return 0.0
        each = 2 if self.started.against else 1
        return (each * len(self.scored) + self.layers) / max(each * self.started.windows + self.passes, 1)

    def remaining(self, now: float) -> float | None:
        """Seconds until windows and layers are done, from the pace so far; None before the third window."""
        if self.started is None or len(self.scored) < 3:
            return None
        spent, done = now - self.begun, self.share
        return max(0.0, spent * (1 - done) / done)


class Evaluations:
    """All evaluations of a data directory, and the view of the newest while it works."""

    def __init__(self, home: Path) -> None:
        self.store = EvaluationStore(home)
        self.rows: list[Evaluation] = []
        self.view: EvaluationView | None = None  # of the newest
        self._tail: Tail | None = None
        self._lock = threading.RLock()
        self._looked = 0.0
        self.refresh()

    def look(self) -> list[Evaluation]:
        """All evaluations, newest first, no older than ``LOOK``."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK:
                self.refresh()
            return self.rows

    def refresh(self) -> None:
        """Read what is new."""
        with self._lock:
            self._looked = time.monotonic()
            self.rows = self.store.history()
            newest = next(iter(self.rows), None)
            if newest is None:
                self.view = self._tail = None
            elif self.view is None or self.view.row.id != newest.id:
                self.view, self._tail = EvaluationView(newest), Tail(newest.directory)
            if self.view and self._tail and newest:
                self.view.row = newest
                for record in self._tail.read():
                    self.view.fold(record)

    def start(self, job: EvaluationConfig, *, again: bool = False) -> Evaluation:
        """Start one, or find the one that is done. Raises the coded errors of ``evaluations.start``."""
        row = evaluations.start(job, self.store.home, again=again)
        self.refresh()
        return row

    def stop(self) -> None:
        """End what works now."""
        if row := self.store.active():
            evaluations.stop(row.id, self.store.home)
        self.refresh()

    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.refresh()

    def finished(self) -> list[Evaluation]:
        """Those with a result, newest first."""
        return [row for row in self.look() if row.status == "done" and row.result]

    def shown(self, name: str) -> Evaluation | None:
        """The finished evaluation of this name, or the newest."""
        found = self.finished()
        return next((row for row in found if row.id == name), next(iter(found), None))
