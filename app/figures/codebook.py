"""Figures of a codebook: the levels of a row, the points of a lattice, the place of any other beside the limit."""

from __future__ import annotations

import math

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range
from app.figures.layer import AXES, rounded
from quip_engine.inspection.numbers import Histogram
from quip_engine.inspection.picture import UNIFORM, Distortion, Levels, Picture, Points


def codebook(found: Picture, weights: Histogram, layer: str, foot: str = "") -> Figure:
    """The levels of a scalar codebook, the points of a lattice, or the place of any other beside the limit."""
    if found.levels:
        figure = _levels(found.levels, weights)
    elif found.points:
        figure = _beside(_points(found.points), _distortion(found.codebook, found.distortion))
    else:
        figure = _distortion(found.codebook, found.distortion)
    return {"run": layer, "foot": foot, **figure}


def _beside(left: Figure, right: Figure) -> Figure:
    """Two figures as panels of one."""
    x, y = right["layout"]["xaxis"], right["layout"]["yaxis"]
    axes = {"xaxis2": {**x, "domain": [0.64, 1], "anchor": "y2"}, "yaxis2": {**y, "anchor": "x2"}}
    wide, upper, lower = {"domain": [0, 1]}, {"domain": [0.58, 1]}, {"domain": [0, 0.4]}
    narrow = {"height": 620, "xaxis": wide, "xaxis2": wide, "yaxis": upper, "yaxis2": lower}
    layout = {**left["layout"], **axes, "xaxis": {**left["layout"]["xaxis"], "domain": [0, 0.5]}}
    data = [*left["data"], *({**trace, "xaxis": "x2", "yaxis": "y2"} for trace in right["data"])]
    return {"summary": f"{left['summary']} {right['summary']}", "data": data, "layout": layout, "narrow": narrow}


def _levels(found: Levels, weights: Histogram) -> Figure:
    """Shares of the weights on the levels of a row, over the share a cell of that width would hold."""
    gaps = [b - a for a, b in zip(found.values, found.values[1:], strict=False)]
    width = sum(gaps) / len(gaps) if gaps else 1.0
    expected = rounded([v * width for v in weights.after], 3)
    stems = [v for level in found.values for v in (level, level, None)]
    shares = [v for share in found.shares for v in (0, share, None)]
    return {
        "summary": f"The {len(found.values)} levels of row {found.row} and the share of its weights on each.",
        "data": [
            line("--line-strong", "weights", width=1.25, x=rounded(weights.centres), y=expected, fill="tozeroy")
            | {"fillcolor": "--inset"},
            line("--accent", "level", width=2, x=stems, y=shares),
            {
                **{"type": "scatter", "mode": "markers", "x": rounded(found.values), "y": rounded(found.shares)},
                "marker": {"size": 9, "color": "--accent"},
                "hovertemplate": "level %{x:.2f} × RMS<br><b>%{y:.1%}</b> of the row<extra></extra>",
            },
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {"title": {"text": f"weight ÷ RMS, levels of row {found.row}"}, "range": [-4.2, 4.2]},
            "yaxis": {"title": {"text": "share of the weights"}, "rangemode": "tozero", "tickformat": ".0%"},
        },
    }


def _points(found: Points) -> Figure:
    """Neighbouring coordinates of the points in use, as large as they are frequent."""
    most = max(found.shares)
    sizes = rounded([3 + 21 * math.sqrt(share / most) for share in found.shares], 3)
    return {
        "summary": f"Pairs of coordinates of the lattice points; {found.used} of {found.size} points are in use.",
        "data": [
            {
                **{"type": "scatter", "mode": "markers", "x": found.x, "y": found.y},
                "customdata": rounded([100 * share for share in found.shares], 3),
                "marker": {"size": sizes, "color": "--accent", "opacity": 0.75, "line": {"width": 0}},
                "hovertemplate": "(%{x}, %{y})<br><b>%{customdata:.2f} %</b> of the pairs<extra></extra>",
            }
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {"title": {"text": "first of two neighbours"}, "range": [-3.2, 3.2], "dtick": 1},
            "yaxis": {"title": {"text": "second"}, "range": [-3.2, 3.2], "dtick": 1},
        },
    }


def _distortion(name: str, found: Distortion) -> Figure:
    """Squared error on a Gaussian source against bits, between evenly spaced levels and the limit."""
    grid = {**{"type": "scatter", "mode": "markers", "x": list(UNIFORM), "y": list(UNIFORM.values())}}
    ends = (min(0.9, found.bits - 0.2), max(4.2, found.bits + 0.2))
    limit = [ends[0] + k * (ends[1] - ends[0]) / 20 for k in range(21)]
    low, high = log_range([4**-b for b in ends] + [found.mse], 0.04)
    hover = "<br>%{x:.2f} bits<br>error <b>%{y:.2e}</b><extra></extra>"
    return {
        "summary": f"On a Gaussian source {name} errs by {fmt.sci(found.mse)} at {found.bits:.2f} bits; "
        f"the limit there is {fmt.sci(found.limit)}.",
        "data": [
            line("--line-strong", "limit", dash="dot", x=rounded(limit), y=rounded([4**-b for b in limit])),
            {
                **grid,
                **{"name": "even levels", "hovertemplate": f"evenly spaced levels{hover}"},
                "marker": {"size": 7, "color": "--prev", "symbol": "diamond"},
            },
            {
                **{"type": "scatter", "mode": "markers+text", "x": [round(found.bits, 4)], "y": rounded([found.mse])},
                **{"text": [f" {name}"], "textposition": "middle right"},
                **{"textfont": {"size": 12, "color": "--ink"}, "marker": {"size": 10, "color": "--accent"}},
                "hovertemplate": f"{name}{hover}",
            },
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {"title": {"text": "bits per number"}, "range": list(ends), "dtick": 1, "tick0": 1},
            "yaxis": log_axis(low, high, "squared error on a Gaussian"),
        },
    }
