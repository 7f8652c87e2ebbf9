"""Tuning as a run tells it: its stages one after the other, folded from events; and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from app.fmt import count, duration, eta, percent_change, plural, rough, sci, size
from quip_engine import events


@dataclass
class Stage:
    """One stage: what was promised, every step since, what came of it."""

    started: events.TuningStarted
    begun: float  # by the clock of ``RunView``
    before: int = 0  # steps of an earlier process
    progress: list[events.TuningProgress] = field(default_factory=list)  # rising steps
    finished: events.TuningFinished | None = None

    @property
    def step(self) -> int:
        """The last one that is done."""
        return self.progress[-1].step if self.progress else 0

    @property
    def judged(self) -> list[tuple[int, float]]:
        """(step, KL on held-out windows), from the model as it came on."""
        return [(0, self.started.kl), *((p.step, p.kl) for p in self.progress if p.kl is not None)]

    @property
    def best(self) -> tuple[int, float]:
        """The judgement that is taken, as it stands."""
        return min(self.judged, key=lambda pair: pair[1])

    def left(self, now: float) -> float:
        """Seconds to its end: as promised, then by the pace of its steps."""
        latest = self.progress[-1] if self.progress else None
        done = latest.step - self.before if latest else 0
        if latest is None or done <= 0:
            return max(0.0, self.started.seconds - (now - self.begun))
        return max(0.0, latest.seconds * (self.started.steps - latest.step) / done)


@dataclass
class Tuning:
    """All stages of a run by name, in the order of their beginnings."""

    stages: dict[str, Stage] = field(default_factory=dict)
    blocks: int = 0  # trainings within blocks

    def fold(self, event: events.Event, when: float) -> None:
        """Take an event in; others than those of tuning change nothing. A resumed stage goes on where it was kept."""
        match event:
            case events.BlockTuned():
                self.blocks += 1
            case events.TuningStarted(stage=name):
                before = self.stages.get(name)
                self.stages[name] = Stage(event, when, progress=before.progress if before else [])
            case events.TuningProgress(stage=name) if name in self.stages:
                stage = self.stages[name]
                if event.seconds < (stage.progress[-1].seconds if stage.progress else 0.0):  # resumed
                    stage.before = event.step - 1
                while stage.progress and stage.progress[-1].step >= event.step:
                    stage.progress.pop()
                stage.progress.append(event)
            case events.TuningFinished(stage=name) if name in self.stages:
                self.stages[name].finished = event

    @property
    def current(self) -> Stage | None:
        """The stage that is worked on."""
        latest = next(reversed(self.stages.values()), None)
        return latest if latest and latest.finished is None else None


def now_doing(stage: Stage, now: float) -> str:
    """Where a stage is: ``end-to-end, step 4 of 9``."""
    left = stage.left(now)
    return f"{stage.started.stage}, step {stage.step} of {stage.started.steps} · {eta(left)} left"


def state(stage: Stage) -> str:
    """What a stage has come to so far, as the text below its figure."""
    step, best = stage.best
    place = f"best {sci(best)} after step {step}" if step else "nothing better yet"
    latest = stage.judged[-1][1]
    return f"{stage.started.stage}: step {stage.step} of {stage.started.steps}, KL {sci(latest)}, {place}"


def log_lines(event: events.Event) -> Iterator[str]:
    """An event of tuning, or of shared bits, in the log; nothing for steps that were not judged, and for others."""
    match event:
        case events.BitsAllocated():
            low, high = min(event.bits.values()), max(event.bits.values())
            yield f"bits by {event.rule}: {low:.2f} to {high:.2f}"
        case events.BlockTuned():
            change = f"{sci(event.loss_before)} → {sci(event.loss)}"
            yield f"block {event.block} tuned before {', '.join(event.names)}: error {change}"
        case events.TuningStarted():
            cost = f"about {rough(event.seconds)} and {size(event.peak_rss_mb * 1e6)}"
            yield f"{event.stage}: {count(event.numbers)} numbers, {plural(event.steps, 'step')}; {cost}"
        case events.TuningProgress() if event.kl is not None:
            yield f"{event.stage}: step {event.step} of {event.steps}, KL {sci(event.kl)}"
        case events.TuningFinished():
            yield finding(event.stage, event)


def findings(tuning: Tuning) -> Iterator[str]:
    """What came of the stages that are at their end, a sentence each."""
    for stage in tuning.stages.values():
        if end := stage.finished:
            yield finding(stage.started.stage, end)


def finding(name: str, end: events.TuningFinished) -> str:
    if not end.taken:
        why = "It found nothing better on held-out text, so the model stays as it was"
        return f"Tuning {name} was not kept. {why} (KL {sci(end.kl_before)})."
    change = f"{sci(end.kl_before)} → {sci(end.kl)} ({percent_change(end.kl, end.kl_before)})"
    return f"Tuning {name}: KL on held-out text {change} in {duration(end.seconds)}."
