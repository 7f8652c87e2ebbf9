"""The figure of tuning: KL on held-out text as it goes, the loss of its steps faint behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.figures.base import Figure, line, log_axis, log_range
from app.fmt import sci

MOST = 300  # losses drawn of a stage


@dataclass(frozen=True)
class Course:
    """A stage as the figure sees it: (step, value) each."""

    name: str
    steps: int  # that it will have, or had
    losses: Sequence[tuple[int, float]]
    judged: Sequence[tuple[int, float]]  # from step 0, the model as it came
    best: tuple[int, float]


def tuning(courses: Sequence[Course], run: str) -> Figure:
    """Stages side by side, steps counted through; a ring marks the best so far of each, a line what each began with."""
    starts = [sum(course.steps for course in courses[:k]) for k in range(len(courses))]
    end = starts[-1] + courses[-1].steps
    placed = list(zip(courses, starts, strict=True))
    losses = [_series(_thinned(course.losses), start) for course, start in placed]
    judged = [_series(course.judged, start) for course, start in placed]
    begun = [_series([(0, c.judged[0][1]), (c.steps, c.judged[0][1])], start) for c, start in placed]
    values = [v for x, y in [*losses, *judged] for v in y if v is not None and v > 0]
    curve = line("--accent", "held-out KL", width=1.75) | {
        "mode": "lines+markers",
        "marker": {"size": 6, "color": "--accent"},
        "hoverinfo": "all",
        "hovertemplate": "step %{x}<br>KL <b>%{y:.2e}</b><extra></extra>",
    }
    latest = courses[-1]
    return {
        "run": f"{run} tuning",
        "summary": f"KL on held-out text over {len(courses)} stages of tuning; "
        f"{latest.name}: {sci(latest.judged[0][1])} before it, {sci(latest.best[1])} at best, "
        f"after {latest.judged[-1][0]} of {latest.steps} steps.",
        "data": [
            line("--ink-3", "before the stage", width=1.25, dash="dash", **_joined(begun)),
            line("--prev", "loss of a step", width=1, opacity=0.6, **_joined(losses)),
            {**curve, **_joined(judged)},
            _rings(placed),
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 24, "b": 44},
            "xaxis": {"range": [-0.02 * end, 1.02 * end], "title": {"text": "step"}},
            "yaxis": log_axis(*log_range(values), "KL to the original"),
            "annotations": [_name(course, start) for course, start in placed],
            "shapes": [_border(start) for start in starts[1:]],
        },
        "narrow": {"annotations": [_name(course, start) for course, start in _grouped(placed)]},
    }


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    return points[:: max(1, -(-len(points) // MOST))]


def _series(points: Sequence[tuple[int, float]], start: int) -> tuple[list[float | None], list[float | None]]:
    return [start + step for step, _ in points], [float(f"{value:.4g}") for _, value in points]


def _joined(series: Sequence[tuple[list[float | None], list[float | None]]]) -> Figure:
    """One trace of several; a gap keeps the stages apart."""
    x: list[float | None] = []
    y: list[float | None] = []
    for k, (across, up) in enumerate(series):
        gap: list[float | None] = [None] if k else []
        x, y = [*x, *gap, *across], [*y, *gap, *up]
    return {"x": x, "y": y}


def _rings(placed: Sequence[tuple[Course, int]]) -> Figure:
    marker = {"size": 14, "color": "--ink", "symbol": "circle-open", "line": {"width": 1.5}}
    where = {"x": [start + c.best[0] for c, start in placed], "y": [c.best[1] for c, _ in placed]}
    return {"type": "scatter", "mode": "markers", "name": "best", "hoverinfo": "skip", "marker": marker, **where}


def _name(course: Course, start: int) -> Figure:
    place = {"x": start + course.steps / 2, "y": 1, "xref": "x", "yref": "paper", "yanchor": "bottom"}
    return {"text": course.name, **place, "showarrow": False, "font": {"size": 12, "color": "--ink"}}


def _grouped(placed: Sequence[tuple[Course, int]]) -> list[tuple[Course, int]]:
    """Stages of one kind that follow each other, as one: there is no room for the name of each."""
    found: list[tuple[Course, int]] = []
    for course, start in placed:
        kind, _, number = course.name.partition(" ")
        if found and number and found[-1][0].name.partition(" ")[0] == kind:
            before, begun = found.pop()
            first = before.name.partition("–")[0]
            found.append((replace(before, name=f"{first}–{number}", steps=before.steps + course.steps), begun))
        else:
            found.append((course, start))
    return found


def _border(start: int) -> Figure:
    ends = {"x0": start, "x1": start, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **ends, "line": {"color": "--line", "width": 1}}
