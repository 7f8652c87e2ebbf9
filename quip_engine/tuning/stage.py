"""What every stage of tuning by soft labels has in common: its windows, its cost, its state on disk, its end.

A stage is an entry of the workspace with its name. While it runs the entry is the state of its training, afterwards the
tensors that it made, if they are better than those before: from both a later process goes on to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quip_engine import events
from quip_engine.config import TuningConfig
from quip_engine.devices import peak_rss_mb
from quip_engine.errors import QuipError, Stopped
from quip_engine.layer import LayerFormat
from quip_engine.plan import Plan
from quip_engine.tuning.cost import JUDGEMENTS, pass_windows
from quip_engine.tuning.loop import Objective, Schedule, State, Training
from quip_engine.tuning.student import store_student
from quip_engine.tuning.teacher import Teacher
from quip_engine.workspace import Workspace

COPIES = 24  # bytes of memory for each trained number beside it and its gradient: moments, the best, a state to keep
Events = Generator[events.Event, None, Any]


class Stage:
    """A stage of tuning of one run."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        space: Workspace,
        stop: Callable[[], bool],
        *,
        tokens: Tensor | None = None,
        parts: int = 1,
    ) -> None:
        """``tokens``: its share of the windows, if not all; ``parts``: stages that have the steps together."""
        self.name, self.plan, self.space, self.stop = name, plan, space, stop
        self.settings: TuningConfig = plan.job.tuning
        self.tokens, self.parts = plan.tuning_tokens if tokens is None else tokens, parts
        self.dtype: torch.dtype = getattr(torch, plan.facts.dtype)
        self.blocks = len(space.finished_blocks())
        self.prefix = ""  # of the blocks
        self.started = time.perf_counter()

    @property
    def result(self) -> dict[str, Any] | None:
        """What has come of it; None while it is not at its end."""
        kept = self.space.kept(self.name)
        return kept.record.get("result") if kept else None

    @property
    def seconds(self) -> float:
        """What training has taken, under all workers."""
        return time.perf_counter() - self.started

    @property
    def pass_windows(self) -> int:
        """Windows that go through the model together."""
        return pass_windows(self.plan.device, self.tokens.shape[1])

    def schedule(self, windows: int) -> Schedule:
        """Of a training on so many windows."""
        batch = min(self.settings.batch, windows)
        steps = -(-self.settings.steps // self.parts) or -(-windows // batch)
        every = -(-steps // JUDGEMENTS)
        return Schedule(steps, batch, self.pass_windows, every, self.settings.patience, self.plan.job.seed)

    def teacher(self) -> Generator[events.Event, None, Teacher]:
        """The original's answers to the windows of this stage. Raises ``Stopped``."""
        yield events.PhaseChanged("tune", f"{self.name}: what the original says to {self.tokens.numel()} tokens")
        teacher = Teacher(Path(self.plan.facts.path), self.tokens, self.plan.device, self.settings.labels)
        for _ in teacher.read():
            if self.stop():
                raise Stopped(self.blocks)
        self.prefix = teacher.skeleton.prefix
        return teacher

    def train(
        self, objective: Objective, kind: Callable[[Any, Schedule, State | None], Training] = Training
    ) -> Generator[events.Event, None, Training]:
        """Train from where the workspace says it is to the best state; raises ``Stopped``."""
        schedule, kept = self.schedule(objective.windows), self.space.kept(self.name)
        state = (kept.tensors(), kept.record) if kept else None
        training = kind(objective, schedule, state)
        yield self._expected(training)
        self.started = time.perf_counter() - (kept.record["seconds"] if kept else 0.0)
        try:
            for done in training.run(self.stop, self._keep):
                progress = done.step, schedule.steps, done.loss, done.judged, done.best, self.seconds
                yield events.TuningProgress(self.name, *progress)
        except Stopped:
            raise Stopped(self.blocks) from None
        except QuipError as error:
            if error.code != "TUNING_DIVERGED" or not training.best_masters:
                raise
            yield events.Warned(error.code, f"{error.message} The best state before that is taken. {error.hint}")
        training.restore_best()
        return training

    def finish(
        self, training: Training, tensors: dict[str, Tensor], formats: dict[str, LayerFormat]
    ) -> Iterator[events.Event]:
        """Let the model have ``tensors``, by name, and ``formats``, where training has made it better."""
        result: dict[str, Any] = {
            "stage": self.name,
            "steps": training.step,
            "kl_before": training.before,
            "kl": training.best,
            "taken": training.improved,
        }
        if not training.improved:
            text = f"{self.name} has found nothing better on held-out text: the model stays as it was"
            yield events.Warned("TUNING_NOT_BETTER", f"{text} (KL {training.before:.5f}).")
            tensors, formats = {}, {}
        records = {path: form.to_json() for path, form in formats.items()}
        # Told before it is kept: who dies between the two tells it again, and nobody never.
        yield events.TuningFinished(**result, seconds=self.seconds, peak_rss_mb=peak_rss_mb())
        self.space.keep(self.name, tensors, {"result": result, "formats": records, "prefix": self.prefix})

    def settle(self) -> None:
        """Put what the stage has made into the model. May be repeated."""
        kept = self.space.kept(self.name)
        assert kept is not None
        formats = {path: LayerFormat.from_json(record) for path, record in kept.record["formats"].items()}
        store_student(self.space, kept.record["prefix"], kept.tensors(), formats)

    def _keep(self, state: State) -> None:
        tensors, record = state
        self.space.keep(self.name, tensors, {**record, "seconds": self.seconds})

    def _expected(self, training: Training) -> events.TuningStarted:
        """What the rest will take, by one pass and one judgement that are timed; gradients are dropped."""
        objective, schedule = training.objective, training.schedule
        windows = torch.arange(min(schedule.pass_windows, objective.windows))
        for _ in range(2):  # the first one warms up
            clock = time.perf_counter()
            objective.gradient(windows, 1.0)
            a_pass = (time.perf_counter() - clock) / len(windows)
        if not training.best_masters:
            training.begin()
        clock = time.perf_counter()
        objective.validate()
        judgement = time.perf_counter() - clock
        clock = time.perf_counter()
        training.rehearse()
        besides = time.perf_counter() - clock
        numbers, left = sum(p.numel() for p in objective.masters.values()), schedule.steps - training.step
        return events.TuningStarted(
            stage=self.name,
            steps=schedule.steps,
            windows=objective.windows,
            held_out=len(self.tokens) - objective.windows,
            numbers=numbers,
            kl=training.before,
            seconds=left * (schedule.batch * a_pass + besides + judgement / schedule.every),
            peak_rss_mb=peak_rss_mb() + COPIES * numbers / 1e6,
        )
