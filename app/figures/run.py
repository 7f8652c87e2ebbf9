"""Figures of a run: what the Monitor shows while layers are finished one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.figures.base import RAMP, Figure, Lanes, Series, line, log_axis, log_range, log_ticks, pack, tick_label


@dataclass(frozen=True)
class Point:
    """A finished layer as the figures see it. ``lane`` is its projection, short; ``None`` means not measured."""

    lane: str
    block: int
    loss: float
    mu_w: tuple[float, float]  # before, after the transform
    mu_h: tuple[float | None, float | None]


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 and math.isfinite(value) else None


def _losses(points: Sequence[Point], lanes: Lanes) -> Series:
    return lanes.series({(p.lane, p.block): _positive(p.loss) for p in points})


def _known(*series: Series) -> list[float]:
    return [v for values in series for v in values if v is not None]


def proxy_loss(points: Sequence[Point], lanes: Lanes, run: str, previous: Sequence[Point] = ()) -> Figure:
    """Loss of the finished layers, an earlier run in grey; a ring marks the latest layer while more are to come."""
    now, before = _losses(points, lanes), _losses(previous, lanes)
    if not (known := _known(now, before)):
        known = [1e-3, 1e-1]
    low, high = log_range(known)
    traces = [line("--prev", "earlier run", width=1.25, y=pack(before, log=True))] if _known(before) else []
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "y": pack(now, log=True),
            "name": "this run",
            "line": {"color": "--accent", "width": 1.75},
            "marker": {"size": 5, "color": "--accent"},
            "customdata": lanes.places(),
            "hovertemplate": "block %{customdata}<br><b>%{y:.2e}</b><extra></extra>",
        }
    )
    return {
        "run": run,
        "now": _ring(points[-1], lanes) if 0 < len(points) < lanes.blocks * len(lanes.names) else {},
        "summary": f"Proxy loss of {len(points)} layers by projection and block; the table below has the numbers.",
        "data": traces,
        "layout": {**lanes.layout(), "yaxis": log_axis(low, high, "relative proxy loss")},
    }


def _ring(latest: Point, lanes: Lanes) -> Figure:
    if not _positive(latest.loss):
        return {}
    return {"ring": [lanes.start(lanes.names.index(latest.lane)) + latest.block, latest.loss]}


def incoherence(points: Sequence[Point], lanes: Lanes, run: str, of: str, bounds: Sequence[float] = ()) -> Figure:
    """mu of W or H before (diamond) and after the transform (dot), joined by a stem.

    ``bounds``: for each lane what the transform promises mu to stay below, drawn as a dashed line.
    """
    pairs = {(p.lane, p.block): p.mu_w if of == "W" else p.mu_h for p in points}
    before = lanes.series({key: _positive(pair[0]) for key, pair in pairs.items()})
    after = lanes.series({key: _positive(pair[1]) for key, pair in pairs.items()})
    most = lanes.series({(n, k): b for n, b in zip(lanes.names, bounds, strict=False) for k in range(lanes.blocks)})
    low, high = log_range([*(_known(before, after) or [4.0, 40.0]), *bounds])

    def marks(series: Series, name: str, marker: Figure) -> Figure:
        return {
            "type": "scatter",
            "mode": "markers",
            "y": pack(series, log=True),
            "name": name,
            "marker": marker,
            "customdata": lanes.places(),
            "hovertemplate": f"block %{{customdata}}<br>μ({of}) {name} <b>%{{y:.1f}}</b><extra></extra>",
        }

    return {
        "run": run,
        "summary": f"Incoherence mu of {of} before and after the transform for {len(points)} layers.",
        "data": [
            line("--line-strong", "change", width=1, stems=[-2, -1], opacity=0.55),
            *([line("--ink-3", "promised", width=1.25, dash="dash", y=pack(most, log=True))] if bounds else []),
            marks(before, "before", {"symbol": "diamond", "size": 7, "color": "--before"}),
            marks(after, "after", {"size": 6, "color": "--accent"}),
        ],
        "layout": {**lanes.layout(), "yaxis": log_axis(low, high, f"μ({of}), log scale")},
    }


def block_map(
    points: Sequence[Point], lanes: Lanes, run: str, current: tuple[str, int] | None = None, failed: bool = False
) -> Figure:
    """Loss of every finished layer as a tile; layers to come are empty tiles, the current one is outlined."""
    found = {(p.block, p.lane): _positive(p.loss) for p in points}
    cells = [found.get((block, lane)) for block in range(lanes.blocks) for lane in lanes.names]
    low, high = log_range(_known(cells) or [1e-3, 1e-1], pad=0)
    tiles = {"type": "heatmap", "x": list(lanes.names), "xgap": 3, "ygap": 3 if lanes.blocks < 48 else 1}
    empty = {"z": [[0] * len(lanes.names)] * lanes.blocks, "colorscale": [[0, "--inset"], [1, "--inset"]]}
    loss = {
        "z": pack([None if v is None else math.log10(v) for v in cells], columns=len(lanes.names)),
        "powers": True,
        "hoverongaps": False,
        "colorscale": RAMP,
        "zmin": math.log10(low),
        "zmax": math.log10(high),
        "hovertemplate": "block %{y} · %{x}<br><b>%{text}</b><extra></extra>",
        "colorbar": _scale(low, high),
    }
    bare = {"showgrid": False, "showline": False, "ticks": ""}
    rows = {"range": [lanes.blocks - 0.5, -0.5], "dtick": max(1, lanes.blocks // 8), "tick0": 0}
    return {
        "run": run,
        "now": _frame(current, lanes, "--error" if failed else "--accent") if current else {},
        "summary": "Loss of every layer: rows are blocks, columns are projections.",
        "data": [{**tiles, **empty, "showscale": False, "hoverinfo": "skip"}, {**tiles, **loss}],
        "layout": {
            "margin": {"l": 28, "r": 4, "t": 22, "b": 8},
            "xaxis": {**bare, "type": "category", "side": "top", "tickfont": {"size": 12, "color": "--ink"}},
            "yaxis": {**bare, **rows},
        },
    }


def _scale(low: float, high: float) -> Figure:
    """A thin colour bar for log10 values, labelled with the numbers themselves."""
    ticks = log_ticks(low, high)
    return {
        "thickness": 8,
        "len": 1,
        "outlinewidth": 0,
        "x": 1.02,
        "xpad": 4,
        "ypad": 0,
        "tickvals": [round(math.log10(t), 4) for t in ticks],
        "ticktext": [tick_label(t) for t in ticks],
        "tickfont": {"size": 11, "color": "--ink-3"},
    }


def _frame(place: tuple[str, int], lanes: Lanes, colour: str) -> Figure:
    return {"tile": [lanes.names.index(place[0]), place[1]], "color": colour}
