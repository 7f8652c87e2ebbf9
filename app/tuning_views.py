"""What a run says beyond its layers: who got the bits, how tuning goes, and whether it came as expected."""

from __future__ import annotations

from app import figures
from app import widgets as w
from app.fmt import fixed, percent_change, sci
from app.results import Result
from app.state import RunView
from app.tuning import Stage, findings, state
from quip_engine.expectation import Expectation, compare


def plots(view: RunView) -> dict[str, figures.Figure]:
    """The figures of tuning and of the bits; empty where there is nothing of it."""
    return {"kl": _course(view), "bits": _bits(view)}


def _course(view: RunView) -> figures.Figure:
    stages = list(view.tuning.stages.values())
    if not stages:
        return {}
    foot = ". ".join(state(stage) for stage in stages[-1:] if not stage.finished)
    return figures.tuning([_as_course(stage) for stage in stages], view.run.id) | {"foot": foot}


def _as_course(stage: Stage) -> figures.Course:
    steps = stage.finished.steps if stage.finished else stage.started.steps
    losses = [(p.step, p.loss) for p in stage.progress]
    return figures.Course(stage.started.stage, max(steps, 1), losses, stage.judged, stage.best)


def _bits(view: RunView) -> figures.Figure:
    if not view.allocated or not view.lanes or view.started is None:
        return {}
    names = view.axis.names
    rows: list[list[float | None]] = [[None] * len(names) for _ in range(view.axis.blocks)]
    for layer in view.started.layers:
        rows[layer["block"]][names.index(view.lanes[layer["name"]])] = view.allocated.bits.get(layer["name"])
    known = view.allocated.bits
    if not known:
        return {}
    most, least = max(known, key=lambda name: known[name]), min(known, key=lambda name: known[name])
    places = {x["name"]: f"block {x['block']} {view.lanes[x['name']]}" for x in view.started.layers}
    foot = f"Most for {places[most]} ({known[most]:.3g}), least for {places[least]} ({known[least]:.3g})."
    return figures.allocation(names, rows) | {"foot": foot}


def told(view: RunView, expected: Expectation | None, result: Result | None) -> w.Html:
    """What came of tuning, and of what was expected; empty where there is nothing to tell."""
    sentences = [*findings(view.tuning), *_expected(view, expected, result)]
    items = w.joined([w.tag("li", sentence) for sentence in sentences])
    return w.Html(f'<ul class="findings">{items}</ul>') if sentences else w.Html("")


def _expected(view: RunView, found: Expectation | None, result: Result | None) -> list[str]:
    """What a finished run was expected to cost, beside what was measured."""
    if found is None or view.finished is None:
        return []
    kl, error = (result.mean_kl, result.mean_kl_error) if result else (None, None)
    came = compare(found.points, view.finished.bits, kl or 0.0, error)
    promised = f"Expected KL {sci(came['expected']['kl'])} ± {sci(came['expected']['kl_error'])}"
    beside = ["tuning"] if view.tuning.stages or view.tuning.blocks else []
    beside += ["packed embeddings"] if view.run.job.budget.embeddings else []
    if beside:
        promised += f" without {' and '.join(beside)}"
    if not kl:
        return [f"{promised}. Evaluate shows what came."]
    if beside:
        return [f"{promised}; with that {sci(kl)} came ({percent_change(kl, came['expected']['kl'])})."]
    off = f"{abs(100 * came['off']):.0f} % too {'high' if came['off'] > 0 else 'low'}"
    return [f"{promised}; {sci(kl)} came: the expectation was {off}, {fixed(abs(came['errors']), 1)} standard errors."]
