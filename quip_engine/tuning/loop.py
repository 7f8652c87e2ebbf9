"""One training loop for every stage of tuning: Adam on float32 masters, judged as the model would be stored.

    lr(t) = rate * min(1, (t + 1) / warmup) * (1 + cos(pi t / steps)) / 2

Stages differ in what they train and by which loss: an ``Objective`` says both. The loop keeps the best state it has
seen on held-out windows, the first state, which is the model as it came, among them; it ends after ``steps``, after
``patience`` judgements without a better one, or with ``TUNING_DIVERGED``, and the best state is there in each case.

All that the next step depends on is in ``state``: from it a later process goes on with the same bits. The order of
windows follows from the seed and the step alone.

| text       | here                                                       |
|------------|------------------------------------------------------------|
| m, v       | ``exp_avg``, ``exp_avg_sq`` of torch's Adam                 |
| epoch      | one pass through a permutation of the training windows     |
| judgement  | ``Objective.validate`` on held-out windows                 |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from quip_engine.errors import Stopped, fail

BETAS = (0.9, 0.95)  # short runs: the second moment has to follow within tens of steps
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # steps of an expert are those in which it was chosen
RECORD = ("step", "best_step", "misses", "before", "best")
KEEP_SECONDS = 60.0  # between states that are put aside
WARMUP = 0.05  # share of the steps


class Objective(Protocol):
    """What is trained, and by which loss."""

    masters: dict[str, Tensor]  # leaves, float32
    rates: dict[str, float]  # learning rate of each master
    windows: int  # to train on

    def gradient(self, windows: Tensor, share: float) -> float:
        """Add ``share`` times the gradient of the mean loss over ``windows``: (b,) indices; returns that loss."""

    def validate(self) -> float:
        """The loss on held-out windows of the masters as they would be stored."""


@dataclass(frozen=True)
class Schedule:
    """How long, in which steps, judged how often."""

    steps: int
    batch: int  # windows of a step
    pass_windows: int  # windows that go through the model together
    every: int  # steps between judgements
    patience: int  # judgements without a better one
    seed: int


@dataclass(frozen=True)
class Progress:
    """After a step; ``judged`` is None where it was not judged."""

    step: int
    loss: float
    judged: float | None
    best: float


State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and a record


class Training:
    """The masters of an objective on their way."""

    def __init__(self, objective: Objective, schedule: Schedule, state: State | None = None) -> None:
        self.objective, self.schedule = objective, schedule
        self.masters = objective.masters
        groups = [{"params": [p], "lr": objective.rates[name]} for name, p in self.masters.items()]
        self._adam = torch.optim.Adam(groups, betas=BETAS, foreach=False)
        self.step, self.best_step, self.misses = 0, 0, 0
        self.before = self.best = math.nan
        self.best_masters: dict[str, Tensor] = {}
        if state is not None:
            self._load(*state)

    @property
    def finished(self) -> bool:
        return self.step >= self.schedule.steps or self.misses >= self.schedule.patience

    @property
    def improved(self) -> bool:
        """Whether the best state is better than the one it began with."""
        return self.best < self.before

    def run(self, stop: Callable[[], bool], keep: Callable[[State], object]) -> Iterator[Progress]:
        """Train to the end. ``keep`` is given the state from time to time, and before ``Stopped`` is raised.

        Raises ``TUNING_DIVERGED``.
        """
        kept = time.monotonic()
        if not self.best_masters:
            self.begin()
        while not self.finished:
            if stop():
                keep(self.state())
                raise Stopped
            loss, judged = self.advance(), None
            if self.step % self.schedule.every == 0 or self.step == self.schedule.steps:
                judged = self.judge()
            yield Progress(self.step, loss, judged, self.best)
            if time.monotonic() - kept > KEEP_SECONDS:
                keep(self.state())
                kept = time.monotonic()

    def begin(self) -> None:
        """Judge the model as it came; it is the best so far."""
        self.before = self.best = self._judged()
        self._remember()

    def advance(self) -> float:
        """One step; returns the loss before it. Raises ``TUNING_DIVERGED`` with the masters as they were."""
        self._adam.zero_grad()
        windows = self.windows_of(self.step)
        loss = 0.0
        for some in windows.split(self.schedule.pass_windows):
            share = len(some) / len(windows)
            loss += share * self.objective.gradient(some, share)
        gradients = [p.grad for p in self.masters.values() if p.grad is not None]
        if not math.isfinite(loss) or not all(bool(g.isfinite().all()) for g in gradients):
            fail("TUNING_DIVERGED", step=self.step + 1)
        for group, name in zip(self._adam.param_groups, self.masters, strict=True):
            group["lr"] = self.objective.rates[name] * self.pace(self.step)
        self._adam.step()
        self.step += 1
        return loss

    def rehearse(self) -> None:
        """What takes time in a step beside gradients, without effect: to be timed."""

    def judge(self) -> float:
        """Judge the masters as they are now; they are remembered where they are the best so far."""
        judged = self._judged()
        if judged < self.best:
            self.best, self.best_step, self.misses = judged, self.step, 0
            self._remember()
        else:
            self.misses += 1
        return judged

    def pace(self, step: int) -> float:
        """The learning rate of a step, from 0 to 1."""
        warmup = math.ceil(WARMUP * self.schedule.steps)
        return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / self.schedule.steps)) / 2

    def windows_of(self, step: int) -> Tensor:
        """Indices of the windows of a step: (batch,), the same whenever it is asked."""
        first, count = step * self.schedule.batch, self.objective.windows
        places = range(first, first + self.schedule.batch)
        orders = {place // count: self._order(place // count) for place in places}
        return torch.stack([orders[place // count][place % count] for place in places])

    def restore_best(self) -> None:
        """Put the best state into the masters."""
        for name, master in self.masters.items():
            master.data.copy_(self.best_masters[name])

    def state(self) -> State:
        tensors = {f"master.{name}": p.detach().clone() for name, p in self.masters.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_masters.items()}
        for name, p in self.masters.items():
            moments = self._adam.state[p]
            tensors |= {f"{key}.{name}": moments[key].clone() for key in MOMENTS if key in moments}
        record = {key: getattr(self, key) for key in RECORD}
        return tensors, record

    def _load(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        vars(self).update({key: record[key] for key in RECORD})
        for name, p in self.masters.items():
            p.data.copy_(tensors[f"master.{name}"])
            self.best_masters[name] = tensors[f"best.{name}"].to(p.device)
            if f"exp_avg.{name}" in tensors:
                moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS}
                self._adam.state[p] = {key: t if key == "step" else t.to(p.device) for key, t in moments.items()}

    def _judged(self) -> float:
        judged = self.objective.validate()
        if not math.isfinite(judged):
            fail("TUNING_DIVERGED", step=self.step)
        return judged

    def _remember(self) -> None:
        self.best_masters = {name: p.detach().clone() for name, p in self.masters.items()}

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.schedule.seed + epoch)
        return torch.randperm(self.objective.windows, generator=generator)
