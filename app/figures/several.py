"""Several runs in one figure: the loss of each layer, a line a run."""

from __future__ import annotations

from collections.abc import Sequence

from app.figures.base import Figure, Lanes, line, log_axis, log_range, pack
from app.figures.run import Point

# Colour, dash and mark: told apart without colour, too.
STYLES = (
    ("--accent", "solid", "circle"),
    ("--before", "dash", "diamond"),
    ("--ok", "dot", "square"),
    ("--ink-2", "dashdot", "triangle-up"),
)


def losses(runs: Sequence[tuple[str, Sequence[Point]]], lanes: Lanes) -> Figure:
    """Proxy loss of ``runs`` (name, layers) on the lanes they share, at most as many as there are styles."""
    shown = runs[: len(STYLES)]
    series = [
        lanes.series({(p.lane, p.block): p.loss for p in points if p.loss > 0 and p.lane in lanes.names})
        for _, points in shown
    ]
    low, high = log_range([v for values in series for v in values if v is not None] or [1e-3, 1e-1])
    traces = []
    for (name, _), values, (colour, dash, mark) in zip(shown, series, STYLES, strict=False):
        hover = f"block %{{customdata}}<br>{name} <b>%{{y:.2e}}</b><extra></extra>"
        trace = line(colour, name, dash=dash, y=pack(values, log=True), customdata=lanes.places(), hovertemplate=hover)
        traces.append({**trace, "mode": "lines+markers", "hoverinfo": "all"} | {"marker": {"size": 5, "symbol": mark}})
    return {
        "run": " ".join(name for name, _ in shown),
        "summary": f"Proxy loss of each layer for {len(shown)} runs; the table beside it has their means.",
        "data": traces,
        "layout": {**lanes.layout(), "yaxis": log_axis(low, high, "relative proxy loss")},
    }
