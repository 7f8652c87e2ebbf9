"""What the app knows about runs: the truth on disk, folded into a view, one reader thread for all pages.

    events.jsonl --Tail--> fold --> RunView --views.py--> what a page shows

A page never holds a job. It asks every second and is told what has changed since its last answer (live.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.figures import Lanes, Point
from app.tuning import Tuning
from quip_engine import events
from quip_engine.errors import QuipError
from quip_engine.runs import Run, Store, Tail, settle
from quip_engine.runs.last_words import unsettled


@dataclass
class RunView:
    """Everything a run has said so far. ``fold`` is the only writer."""

    run: Run
    phase: str = "check"
    started: events.RunStarted | None = None
    layers: dict[str, events.LayerQuantized] = field(default_factory=dict)  # by module path, latest result
    blocks: dict[int, events.BlockSaved] = field(default_factory=dict)
    log: list[tuple[float, events.Event]] = field(default_factory=list)
    finished: events.RunFinished | None = None
    failed: events.RunFailed | None = None
    lanes: dict[str, str] = field(default_factory=dict)  # module path -> short name of its projection
    allocated: events.BitsAllocated | None = None
    tuning: Tuning = field(default_factory=Tuning)
    # Of this worker, by the clock of the machine, which never jumps: when it began, when with its first block, when it
    # was last heard of, and (when, weights) of each layer it has finished.
    begun: float | None = None
    work_started: float = 0.0
    heard: float = 0.0
    worked: list[tuple[float, int]] = field(default_factory=list)

    def fold(self, record: dict[str, Any]) -> None:
        """Take one record of the log in. Records of an unknown type, from a newer version, change nothing."""
        try:
            event = events.from_json(record)
        except KeyError:
            return
        self.log.append((record["time"], event))
        when = self.heard = tick(record)
        self.tuning.fold(event, when)
        match event:
            case events.RunStarted():
                self.started, self.failed, self.finished = event, None, None
                self.lanes, self.worked = short_names(event.layers), []
                self.begun = self.work_started = when
            case events.PhaseChanged(phase=phase):
                self.phase = phase
                if phase == "quantize":
                    self.work_started = when
            case events.BitsAllocated():
                self.allocated = event
            case events.LayerQuantized():
                self.phase = "quantize"  # also behind a training between two blocks
                self.layers.pop(event.name, None)  # a resumed block is done anew: last place, new result
                self.layers[event.name] = event
                self.worked.append((when, event.shape[0] * event.shape[1]))
            case events.BlockSaved():
                self.blocks[event.block] = event
            case events.RunFinished():
                self.finished = event
            case events.RunFailed():
                self.failed = event

    @property
    def total(self) -> int:
        return len(self.lanes)

    @property
    def axis(self) -> Lanes:
        """The lane axis of this model's figures."""
        names = tuple(dict.fromkeys(self.lanes.values()))
        return Lanes(names, self.started.blocks if self.started else 1)

    def points(self) -> list[Point]:
        """Finished layers in order of arrival, as the figures see them."""
        return [
            Point(
                self.lanes[layer.name],
                layer.block,
                layer.rel_proxy,
                (layer.mu_w_before, layer.mu_w_after),
                (layer.mu_h_before, layer.mu_h_after),
            )
            for layer in self.layers.values()
            if layer.name in self.lanes
        ]

    def upcoming(self) -> tuple[str, int] | None:
        """Lane and block of the layer that is worked on, while there is one."""
        if self.started is None:
            return None
        rest = (x for x in self.started.layers if x["name"] not in self.layers and x["block"] not in self.blocks)
        layer = next(rest, None)
        return (self.lanes[layer["name"]], layer["block"]) if layer else None

    def remaining(self, now: float) -> float | None:
        """Seconds to the end of the layers, from the pace so far; None before the third layer of this worker.

        ``now``: of the clock that ``tick`` tells, as below. While a stage of tuning is at work, to its end.
        """
        if self.phase == "tune":
            return self.tuning.current.left(now) if self.tuning.current else None
        if self.started is None or len(self.worked) < 3:
            return None
        todo = sum(x["shape"][0] * x["shape"][1] for x in self.started.layers if x["name"] not in self.layers)
        latest = self.worked[-1][0]
        pace = (latest - self.work_started) / sum(weights for _, weights in self.worked)
        return max(0.0, pace * todo - (now - latest))

    @property
    def mean_loss(self) -> float | None:
        losses = [layer.rel_proxy for layer in self.layers.values()]
        return sum(losses) / len(losses) if losses else None

    @property
    def bits_per_weight(self) -> float | None:
        """Mean over the weights of the finished layers."""
        weights = [layer.shape[0] * layer.shape[1] for layer in self.layers.values()]
        bits = (layer.bits_per_weight for layer in self.layers.values())
        return sum(b * w for b, w in zip(bits, weights, strict=True)) / sum(weights) if weights else None


def tick(record: dict[str, Any]) -> float:
    """When a record was written, by ``time.monotonic``; by the time of day in logs that know no other."""
    return float(record.get("tick", record["time"]))


def short_names(layers: list[dict[str, Any]]) -> dict[str, str]:
    """Module path -> short name: ``q``, ``down``; with its parent where a block has two (GPT-2: ``attn proj``)."""
    inner = {x["name"]: x["name"].split(f".{x['block']}.", 1)[-1] for x in layers}
    short = {path: _shorten(path.rsplit(".", 1)[-1]) for path in set(inner.values())}
    twice = {s for s in short.values() if list(short.values()).count(s) > 1}
    for path, name in short.items():
        if name in twice and "." in path:
            short[path] = f"{path.rsplit('.', 2)[-2]} {name}"
    return {name: short[path] for name, path in inner.items()}


def _shorten(projection: str) -> str:
    """``q_proj`` -> ``q``, ``c_fc`` -> ``fc``, ``c_proj`` -> ``proj``."""
    return projection.removeprefix("c_") if projection.startswith("c_") else projection.removesuffix("_proj")


def read_view(run: Run) -> RunView:
    """The view of a run that nobody is writing to."""
    view = RunView(run)
    for record in Tail(run.directory).read():
        view.fold(record)
    return view


VIEWS = 4  # of runs that have ended, kept


class Follower:
    """Follows the run that was started or resumed last.

    ``refresh`` is one look at the disk; ``watch`` looks three times a second, for ever.
    """

    def __init__(self, home: Path) -> None:
        self.store = Store(home)
        self.lock = threading.RLock()
        self.runs: list[Run] = []
        self.view: RunView | None = None
        self.previous: RunView | None = None
        self.revision = 0
        self._tail: Tail | None = None
        self._views: dict[tuple[str, str, float | None], RunView] = {}
        self.refresh()
        # The turn of the latest run that had ended when this app started: it is history, not news.
        self.since = max((run.turn for run in self.runs if not run.alive), default=0)

    def watch(self, interval: float = 0.33) -> None:
        threading.Thread(target=self._watch, args=(interval,), name="follower", daemon=True).start()

    def _watch(self, interval: float) -> None:
        while True:
            with contextlib.suppress(OSError, sqlite3.Error, QuipError):  # busy or full disk; the next look comes soon
                self.refresh()
                if unsettled(self.runs):
                    settle(self.store.home)
            time.sleep(interval)

    def refresh(self) -> None:
        """Fold what is new. The revision grows whenever anything a page shows may have changed."""
        runs = self.store.list()
        with self.lock:
            changed = runs != self.runs
            self.runs = runs
            newest = max((run for run in runs if run.status != "queued"), key=lambda run: run.turn, default=None)
            if newest is None:
                self.view = self.previous = self._tail = None
            elif self.view is None or self.view.run.id != newest.id:
                self.view, self._tail = RunView(newest), Tail(newest.directory)
                self.previous = self._before(newest)
            if self.view is not None and self._tail is not None and newest is not None:
                self.view.run = newest
                for record in self._tail.read():
                    self.view.fold(record)
                    changed = True
            self.revision += changed

    def chosen(self, run_id: str) -> tuple[RunView | None, RunView | None]:
        """A run, or the newest where none is named, and the one before it with the same model."""
        with self.lock:
            view = self.view
            if view is None or run_id in ("", view.run.id):
                return view, self.previous
            run = next((r for r in self.runs if r.id == run_id), None)
            return (None, None) if run is None else (self._ended(run), self._before(run))

    def _ended(self, run: Run) -> RunView:
        """The view of a run that is not the newest, read once for each of its states."""
        key = run.id, run.status, run.finished
        if key not in self._views:
            for old in list(self._views)[: 1 - VIEWS]:
                del self._views[old]
            self._views[key] = read_view(run)
        return self._views[key]

    def _before(self, run: Run) -> RunView | None:
        at = self.runs.index(run)
        earlier = (r for r in self.runs[at + 1 :] if r.status == "done" and r.job.model == run.job.model)
        return self._ended(found) if (found := next(earlier, None)) else None

    def finished(self) -> list[Run]:
        """Runs whose checkpoint can be used, newest first."""
        with self.lock:
            return [r for r in self.runs if r.status == "done" and Path(r.job.out).is_dir()]

    def find(self, run_id: str) -> Run:
        return self.store.get(run_id)


def explain(error: Exception) -> QuipError:
    """Any exception as one that can be shown; those without a name are defects and say so."""
    if isinstance(error, QuipError):
        return error
    hint = "This is a defect of QuIP Studio."
    return QuipError("DEFECT", f"{type(error).__name__}: {error}", hint, repr(error))
