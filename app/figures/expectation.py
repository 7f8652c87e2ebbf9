"""The figure of what to expect before a run: KL over size with its error, the chosen size, and runs as they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range
from quip_engine.expectation import Point

FLOOR = 1e-3  # of a KL: where the band ends below, on a log axis


@dataclass(frozen=True)
class Came:
    """A run that was measured; ``same``: with the method that the expectation is of."""

    bits: float
    kl: float
    name: str
    same: bool


def expectation(points: Sequence[Point], chosen: Point | None, runs: Sequence[Came]) -> Figure:
    """KL with one standard error over bits per weight, rising; a click on a point tells its bits.

    ``chosen``: what is asked for now; ``runs``: what was measured.
    """
    x, y = [p.bits for p in points], [p.kl for p in points]
    low = [max(p.kl - p.kl_error, FLOOR * p.kl) for p in points]
    high = [p.kl + p.kl_error for p in points]
    edge = line("--accent", "error", width=0, x=x)
    curve = line("--accent", "expected", width=1.75, x=x, y=y) | {
        "mode": "lines+markers",
        "marker": {"size": 7, "color": "--accent"},
        "customdata": [f"{p.bits:g}" for p in points],
        "text": [f"perplexity × {p.ratio:.3f}, {fmt.size(p.bytes)}" for p in points],
        "hoverinfo": "all",
        "hovertemplate": "%{x} bits<br>KL <b>%{y:.2e}</b><br>%{text}<extra></extra>",
    }
    values = [v for v in [*low, *high, *(run.kl for run in runs)] if v > 0]
    across = [*x, *(run.bits for run in runs)]
    return {
        "summary": f"Expected KL at {len(points)} sizes from {min(x):g} to {max(x):g} bits per weight, "
        f"and {fmt.plural(len(runs), 'measured run')}; the table below has the numbers.",
        "data": [
            {**edge, "y": low},
            {**edge, "y": high, "fill": "tonexty", "fillcolor": "--accent-fill"},
            curve,
            *_came([run for run in runs if not run.same], "other method", "--prev"),
            *_came([run for run in runs if run.same], "came", "--before"),
            *([_ring(chosen)] if chosen else []),
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {"range": [min(across) - 0.2, max(across) + 0.2], "title": {"text": "bits per weight"}},
            "yaxis": log_axis(*log_range(values), "KL to the original"),
        },
    }


def _came(runs: Sequence[Came], name: str, colour: str) -> list[Figure]:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [run.bits for run in runs],
        "y": [run.kl for run in runs],
        "marker": {"size": 9, "color": colour, "symbol": "diamond"},
        "customdata": [f"{run.bits:g}" for run in runs],
        "text": [run.name.replace("<", "&lt;") for run in runs],
        "hovertemplate": "%{text}<br>%{x} bits<br>KL <b>%{y:.2e}</b><extra></extra>",
    }
    return [trace] if runs else []


def _ring(chosen: Point) -> Figure:
    """Around the chosen size, which may lie between two points."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen",
        "hoverinfo": "skip",
        "x": [chosen.bits],
        "y": [chosen.kl],
        "marker": {"size": 15, "color": "--ink", "symbol": "circle-open", "line": {"width": 1.5}},
    }
