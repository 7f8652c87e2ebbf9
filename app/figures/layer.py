"""Figures of one layer: its weights, their distribution, their outliers, the directions of its inputs, its codebook."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.figures.base import RAMP, Figure, line, log_axis, log_range
from quip_engine.inspection.numbers import Histogram, Maps8, Outliers, Spectrum

PANELS = ("Before", "After the transform", "Error")
FLOOR = 3e-6  # of a density that is drawn
AXES = {"l": 52, "r": 8, "t": 8, "b": 44}


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [float(f"{v:.{digits}g}") for v in values]


def _note(x: float, y: float, text: str, colour: str = "--ink-2", **more: object) -> Figure:
    font = {"size": 12, "color": colour}
    return {"x": x, "y": y, "text": text, "showarrow": False, "xref": "x", "yref": "paper", "font": font, **more}


def weight_maps(maps: Maps8, layer: str, foot: str = "") -> Figure:
    """|W| before and after the transform and the error: one colour scale, linked zoom."""
    matrices = (maps.before, maps.after, maps.error)
    rows, columns = maps.before.shape
    layout: Figure = {"margin": {"l": 0, "r": 40, "t": 26, "b": 6}, "annotations": []}
    narrow: Figure = {"height": 900, "annotations": []}
    data = []
    for k, (name, matrix) in enumerate(zip(PANELS, matrices, strict=True)):
        axis, left, top = str(k + 1) if k else "", k * 0.34, 1 - k * 0.345
        shared = {"visible": False, "anchor": "free"}
        layout[f"xaxis{axis}"] = {**shared, "domain": [left, left + 0.32], "range": [-0.5, columns - 0.5]}
        layout[f"yaxis{axis}"] = {**shared, "domain": [0, 1], "range": [rows - 0.5, -0.5]}
        narrow[f"xaxis{axis}"] = {"domain": [0, 1]}
        narrow[f"yaxis{axis}"] = {"domain": [top - 0.31, top]}
        if k:
            layout[f"xaxis{axis}"]["matches"], layout[f"yaxis{axis}"]["matches"] = "x", "y"
        title, place = f"<b>{name}</b>", {"xref": "paper", "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append(_note(left, 1.01, title, "--ink", **place))
        narrow["annotations"].append(_note(0, top + 0.002, title, "--ink", **place))
        data.append(_map(name, matrix, maps, axis, last=k == 2))
    return {
        "run": layer,
        "summary": "Largest weight in each tile of the matrix, before and after the transform, and largest error.",
        "foot": foot,
        "data": data,
        "layout": layout,
        "narrow": narrow,
    }


def _map(name: str, matrix: NDArray[np.uint8], maps: Maps8, axis: str, *, last: bool) -> Figure:
    step = max(1, round(maps.top / 4))
    ticks = [float(k) for k in range(0, int(maps.top), step)] + [maps.top]
    reached = max(int(m.max()) for m in (maps.before, maps.after, maps.error)) == 255
    words = [f"{t:g}" for t in ticks[:-1]] + [f"{'≥ ' if reached else ''}{maps.top:g}"]
    codes = base64.b64encode(np.ascontiguousarray(matrix).tobytes()).decode()
    return {
        "type": "heatmap",
        "z": {"bytes": codes, "step": round(maps.top / 255, 6), "columns": matrix.shape[1]},
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "zmin": 0,
        "zmax": maps.top,
        "colorscale": RAMP,
        "showscale": last,
        "hovertemplate": f"{name}<br>tile row %{{y}}, column %{{x}}<br><b>%{{z:.2f}}</b> × RMS<extra></extra>",
        "colorbar": {
            **{"thickness": 8, "len": 1, "outlinewidth": 0, "x": 1.0, "xpad": 6, "ypad": 0},
            **{"tickvals": ticks, "ticktext": words, "tickfont": {"size": 11, "color": "--ink-3"}},
        },
    }


def histogram(found: Histogram, layer: str, foot: str = "") -> Figure:
    """Densities on a log axis, where a Gaussian is a parabola and an outlier cannot hide."""
    x = rounded(found.centres)
    gauss = [math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in found.centres]
    seen = [k for k, g in enumerate(gauss) if g > FLOOR]
    after = _steps(x, found.after, "after", "--accent")
    return {
        "run": layer,
        "summary": "Density of the weights before and after the transform, with a Gaussian for comparison.",
        "foot": foot,
        "data": [
            {**after, "fill": "tozeroy", "fillcolor": "--accent-fill"},
            _steps(x, found.before, "before", "--before"),
            line(
                "--ink",
                "Gaussian",
                width=1.25,
                dash="dot",
                x=rounded([x[k] for k in seen]),
                y=rounded([gauss[k] for k in seen], 3),
            ),
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {"title": {"text": "weight ÷ RMS"}, "range": [-found.reach, found.reach]},
            "yaxis": log_axis(FLOOR, 1, "density"),
        },
    }


def _steps(x: list[float], density: Sequence[float], name: str, colour: str) -> Figure:
    hover = f"{name}<br>%{{x:.1f}} × RMS<br>density <b>%{{y:.2e}}</b><extra></extra>"
    return {
        **{"type": "scatter", "mode": "lines", "x": x, "y": rounded([max(v, FLOOR / 10) for v in density], 3)},
        **{"name": name, "hovertemplate": hover, "line": {"color": colour, "width": 1.75, "shape": "hvh"}},
    }


def outlier_rows(found: Outliers, layer: str, foot: str = "") -> Figure:
    """The largest weight of each row: in the order of rows on the left, by size on the right."""
    low, high = log_range([v for v in (*found.before, *found.after) if v > 0] or [1.0, 10.0])
    share = rounded([100 * s for s in found.shares])
    dots = {"type": "scatter", "mode": "markers", "x": found.rows}
    curve = {"type": "scatter", "mode": "lines", "x": share, "xaxis": "x2"}
    at, first = "from row %{x} on", "<br><b>%{y:.1f}</b> × RMS<extra></extra>"
    of = "%{x:.0f} % of the rows have more than"
    before = {"symbol": "diamond", "size": 6, "color": "--before"}
    rows = max(found.rows) if found.rows else 1
    return {
        "run": layer,
        "summary": "The largest weight of each row before and after the transform, by row and sorted.",
        "foot": foot,
        "data": [
            {**dots, "y": rounded(found.before), "marker": before, "hovertemplate": f"before, {at}{first}"},
            {
                **dots,
                **{"y": rounded(found.after), "marker": {"size": 5, "color": "--accent"}},
                "hovertemplate": f"after, {at}{first}",
            },
            {
                **{**curve, "y": rounded(found.sorted_before), "hovertemplate": f"before: {of}{first}"},
                "line": {"color": "--before", "width": 1.75},
            },
            {
                **{**curve, "y": rounded(found.sorted_after), "hovertemplate": f"after: {of}{first}"},
                "line": {"color": "--accent", "width": 1.75},
            },
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {"domain": [0, 0.64], "title": {"text": "row"}, "range": [-0.02 * rows, 1.02 * rows]},
            "xaxis2": {"domain": [0.68, 1], "title": {"text": "% of rows"}, "range": [0, 100], "dtick": 50},
            "yaxis": log_axis(low, high, "largest |w| ÷ RMS"),
        },
    }


def spectrum(found: Spectrum, layer: str, foot: str = "") -> Figure:
    """Eigenvalues of H, largest first, on log axes; where nine tenths of the trace are reached; the damping."""
    positive = [v for v in found.values if v > 0]
    low = max(min(positive, default=1e-3), max(positive, default=1.0) * 1e-7)
    low, high = log_range([low, max(positive, default=1.0), *([found.damping] if found.damping else [])], 0.05)
    damping = [line("--before", "damping", width=1.25, dash="dash", x=[1, found.width], y=[found.damping] * 2)]
    label = _note(0, math.log10(found.damping or 1), "damping", yref="y", xanchor="left", yanchor="bottom")
    shape = {"type": "line", "x0": found.holding, "x1": found.holding, "y0": 0, "y1": 1, "yref": "paper"}
    style = {"line": {"color": "--ink-3", "width": 1, "dash": "dot"}}
    decades = [10**k for k in range(6) if 10**k <= found.width]
    return {
        "run": layer,
        "summary": f"Eigenvalues of H; {found.holding} of {found.width} directions hold 90 % of the trace.",
        "foot": foot,
        "data": [
            {
                **{"type": "scatter", "mode": "lines", "x": found.ranks, "name": "eigenvalues"},
                "y": rounded([max(v, low / 10) for v in found.values]),
                "line": {"color": "--accent", "width": 1.75},
                "hovertemplate": "direction %{x}<br><b>%{y:.2e}</b> × mean<extra></extra>",
            },
            *(damping if found.damping else []),
        ],
        "layout": {
            "margin": AXES,
            "xaxis": {
                **{"type": "log", "range": [0, round(math.log10(max(found.width, 2)), 4)], "tickvals": decades},
                **{"ticktext": [str(d) for d in decades], "title": {"text": "direction, strongest first"}},
            },
            "yaxis": log_axis(low, high, "eigenvalue ÷ mean"),
            "shapes": [{**shape, **style}],
            "annotations": [_held(found), *([label] if found.damping else [])],
        },
    }


def _held(found: Spectrum) -> Figure:
    """The words beside the line where nine tenths of the trace are reached, on the side where there is room."""
    left = found.holding > math.sqrt(found.width)
    sides = {"xanchor": "right" if left else "left", "yanchor": "top", "align": "right" if left else "left"}
    words = f" 90 % of the trace in <br> {found.holding} of {found.width} "
    return _note(math.log10(found.holding), 0.97, words, **sides)
