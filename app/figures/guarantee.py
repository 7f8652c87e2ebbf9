"""What theory says of each layer beside what was measured: one lane a projection, the limit below, the bound above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.figures.base import Figure, Lanes, Series, line, log_axis, log_range, pack


@dataclass(frozen=True)
class Guaranteed:
    """Relative losses of one layer; None where theory needs what was not measured."""

    lane: str
    block: int
    measured: float
    average: float | None
    incoherence: float | None
    limit: float | None


def guarantee(layers: Sequence[Guaranteed], lanes: Lanes, run: str) -> Figure:
    """Measured losses as dots between the limit (dots below) and the incoherence bound (dashes above)."""

    def series(name: str) -> Series:
        values = {(x.lane, x.block): getattr(x, name) for x in layers}
        return lanes.series({k: v if v is not None and v > 0 else None for k, v in values.items()})

    lines = {name: series(name) for name in ("incoherence", "average", "limit", "measured")}
    known = [v for values in lines.values() for v in values if v is not None]
    low, high = log_range(known or [1e-3, 1e-1])
    styles = {"incoherence": ("--ink-3", "dash"), "average": ("--line-strong", "solid"), "limit": ("--ink-3", "dot")}
    traces = [
        line(colour, name, width=1.5, dash=dash, y=pack(lines[name], log=True))
        for name, (colour, dash) in styles.items()
        if any(v is not None for v in lines[name])
    ]
    measured = {
        "type": "scatter",
        "mode": "markers",
        "y": pack(lines["measured"], log=True),
        "name": "measured",
        "marker": {"size": 6, "color": "--accent"},
        "customdata": lanes.places(),
        "hovertemplate": "block %{customdata}<br>measured <b>%{y:.2e}</b><extra></extra>",
    }
    return {
        "run": run,
        "summary": f"Measured loss of {len(layers)} layers between the least possible one and the bound; table below.",
        "data": [*traces, measured],
        "layout": {**lanes.layout(), "yaxis": log_axis(low, high, "relative proxy loss")},
    }
