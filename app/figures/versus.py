"""Figures that set methods against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range

CLOSE = 0.055  # of the height: labels that are nearer to each other stand on different sides


@dataclass(frozen=True)
class Racer:
    """A method that has finished: how it is called, bits per weight, relative proxy loss, seconds."""

    name: str
    bits: float
    loss: float
    seconds: float


def race(
    racers: Sequence[Racer], front: Sequence[Racer], limit: Sequence[tuple[float, float]], layer: str, foot: str = ""
) -> Figure:
    """Proxy loss against bits: the front is joined, what no code can go below is dotted."""
    bits = [r.bits for r in racers] or [2.0]
    ends = (min(bits) - 0.25, max(bits) + 0.75)
    bound = [(b, v) for b, v in limit if ends[0] <= b <= ends[1] and v > 0]
    low, high = log_range([r.loss for r in racers if r.loss > 0] + [v for _, v in bound] or [1e-3, 1e-1], 0.08)
    rest = [r for r in racers if r not in front]
    sides = _sides(racers, math.log10(high / low))
    return {
        "run": layer,
        "summary": f"Proxy loss against bits per weight of {fmt.plural(len(racers), 'method')} on this layer; "
        "the table beside it has the numbers.",
        "foot": foot,
        "data": [
            line(
                "--line-strong",
                "limit",
                dash="dot",
                x=[round(b, 3) for b, _ in bound],
                y=[float(f"{v:.4g}") for _, v in bound],
            ),
            line(
                "--accent",
                "front",
                width=1.5,
                x=[round(r.bits, 4) for r in front],
                y=[float(f"{r.loss:.4g}") for r in front],
            ),
            _marks(rest, sides, "--prev", "--ink-2"),
            _marks(front, sides, "--accent", "--ink"),
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {
                **{"title": {"text": "bits per weight, every stored bit counted"}},
                **{"range": [round(v, 4) for v in ends], "tick0": 1, "dtick": 0.25 if ends[1] - ends[0] < 2 else 1},
            },
            "yaxis": log_axis(low, high, "relative proxy loss"),
        },
    }


def _marks(racers: Sequence[Racer], sides: dict[Racer, str], colour: str, ink: str) -> Figure:
    hover = "%{customdata}<br>%{x:.2f} bits per weight<br>loss <b>%{y:.2e}</b><extra></extra>"
    return {
        **{"type": "scatter", "mode": "markers+text", "cliponaxis": False, "hovertemplate": hover},
        "x": [round(r.bits, 4) for r in racers],
        "y": [float(f"{r.loss:.4g}") for r in racers],
        "text": [f" {r.name} " for r in racers],
        "textposition": [f"middle {sides[r]}" for r in racers],
        "textfont": {"size": 12, "color": ink},
        "customdata": [f"{r.name}, {fmt.duration(r.seconds)}" for r in racers],
        "marker": {"size": 9, "color": colour},
    }


def _sides(racers: Sequence[Racer], decades: float) -> dict[Racer, str]:
    """Where each label stands: on the right, on the left where a right one would be in its way."""
    sides: dict[Racer, str] = {}
    for racer in sorted(racers, key=lambda r: r.loss):
        near = (
            other
            for other, side in sides.items()
            if side == "right"
            and abs(math.log10(racer.loss / other.loss)) < CLOSE * decades
            and abs(racer.bits - other.bits) < 0.6
        )
        sides[racer] = "left" if next(near, None) else "right"
    return sides
