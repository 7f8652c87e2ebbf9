"""Figures that set methods against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range

HEIGHT, LINE = 290, 16  # pixels, about: of the plot, and of a label


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
    span = max(max(bits) - min(bits), 0.4)
    ends = (min(bits) - 0.15 * span, max(bits) + 0.4 * span)
    bound = [(b, v) for b, v in limit if ends[0] <= b <= ends[1] and v > 0]
    least = [v for b, v in bound if b <= max(bits) + 0.1]
    low, high = log_range([r.loss for r in racers if r.loss > 0] + least or [1e-3, 1e-1], 0.08)
    rest = [r for r in racers if r not in front]
    return {
        "run": layer,
        "summary": f"Proxy loss against bits per weight of {fmt.plural(len(racers), 'method')} on this layer; "
        "the table beside it has the numbers.",
        "foot": foot,
        "data": [
            _curve("--line-strong", "limit", bound, dash="dot"),
            _curve("--accent", "front", [(r.bits, r.loss) for r in front]),
            _marks(rest, "--prev"),
            _marks(front, "--accent"),
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {
                **{"title": {"text": "bits per weight, every stored bit counted"}},
                **{"range": [round(v, 4) for v in ends], "tick0": 1, "dtick": 0.25 if ends[1] - ends[0] < 2 else 1},
            },
            "yaxis": log_axis(low, high, "relative proxy loss"),
            "annotations": _labels(racers, front, HEIGHT / math.log10(high / low), 0.5 * span),
        },
    }


def _curve(colour: str, name: str, places: Sequence[tuple[float, float]], dash: str = "solid") -> Figure:
    x, y = [round(b, 4) for b, _ in places], [float(f"{v:.4g}") for _, v in places]
    return line(colour, name, dash=dash, x=x, y=y)


def _marks(racers: Sequence[Racer], colour: str) -> Figure:
    hover = "%{customdata}<br>%{x:.2f} bits per weight<br>loss <b>%{y:.2e}</b><extra></extra>"
    return {
        **{"type": "scatter", "mode": "markers", "cliponaxis": False, "hovertemplate": hover},
        "x": [round(r.bits, 4) for r in racers],
        "y": [float(f"{r.loss:.4g}") for r in racers],
        "customdata": [f"{r.name}, {fmt.duration(r.seconds)}" for r in racers],
        "marker": {"size": 9, "color": colour},
    }


def _labels(racers: Sequence[Racer], front: Sequence[Racer], decade: float, near: float) -> list[Figure]:
    """Names on the right of their marks, pushed down where they would cover each other; ``decade`` in pixels."""
    labels: list[Figure] = []
    placed: list[tuple[float, float]] = []  # bits, and pixels from the top
    for racer in sorted((r for r in racers if r.loss > 0), key=lambda r: -r.loss):
        own = -math.log10(racer.loss) * decade
        taken = [at + LINE for bits, at in placed if abs(bits - racer.bits) < near]
        at = max([own, *taken])
        placed.append((racer.bits, at))
        labels.append(
            {
                **{"x": round(racer.bits, 4), "y": round(math.log10(racer.loss), 4), "text": racer.name},
                **{"ax": 14, "ay": round(at - own, 1), "xanchor": "left", "align": "left"},
                **{"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": "--line-strong"},
                "font": {"size": 12, "color": "--ink" if racer in front else "--ink-2"},
            }
        )
    return labels
