"""The stages of tuning a finished model, one after the other, each from where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quip_engine import events
from quip_engine.plan import Plan
from quip_engine.tuning.end_to_end import tune_end_to_end
from quip_engine.tuning.progressive import name_of, places
from quip_engine.tuning.pv import tune_codes
from quip_engine.tuning.stage import Stage
from quip_engine.workspace import Workspace

STAGES: dict[str, Callable[[Stage], Iterator[events.Event]]] = {"end-to-end": tune_end_to_end, "pv": tune_codes}


def tune(plan: Plan, space: Workspace, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Tune the finished blocks of a workspace, and what is outside, as the job asks. Raises ``Stopped``."""
    for name in plan.job.tuning.stages:
        if name in STAGES:
            stage = Stage(name, plan, space, stop)
            if stage.result is None:
                yield from STAGES[name](stage)
            stage.settle()


def results(plan: Plan, space: Workspace) -> list[dict[str, Any]]:
    """What came of each stage that is at its end."""
    names = [*(name_of(index) for index in places(plan)), *plan.job.tuning.stages]
    kept = (space.kept(name) for name in names)
    return [entry.record["result"] for entry in kept if entry is not None]
