"""The figure of what to expect before a run: KL over size with its error, the chosen size, and runs as they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range

FLOOR = 1e-3  # of a KL: where the band ends below, on a log axis


def expectation(
    points: Sequence[Mapping[str, Any]], chosen: float | None, runs: Sequence[tuple[float, float]]
) -> Figure:
    """KL with one standard error over bits per weight.

    ``points``: those of an ``Expectation``, as records; ``chosen``: bits that are asked for now; ``runs``: what was
    measured.
    """
    x, y = [p["bits"] for p in points], [p["kl"] for p in points]
    low = [max(p["kl"] - p["kl_error"], FLOOR * p["kl"]) for p in points]
    high = [p["kl"] + p["kl_error"] for p in points]
    edge = line("--accent", "error", width=0, x=x)
    curve = line("--accent", "expected", width=1.75, x=x, y=y) | {
        "mode": "lines+markers",
        "marker": {
            "size": [9 if p["bits"] == chosen else 6 for p in points],
            "color": "--accent",
            "line": {"width": [1.5 if p["bits"] == chosen else 0 for p in points], "color": "--ink"},
        },
        "customdata": [f"perplexity × {p['ratio']:.3f}, {fmt.size(p['bytes'])}" for p in points],
        "hoverinfo": "all",
        "hovertemplate": "%{x} bits<br>KL <b>%{y:.2e}</b><br>%{customdata}<extra></extra>",
    }
    came = {
        "type": "scatter",
        "mode": "markers",
        "name": "measured",
        "x": [bits for bits, _ in runs],
        "y": [kl for _, kl in runs],
        "marker": {"size": 9, "color": "--before", "symbol": "diamond"},
        "hovertemplate": "a run of %{x} bits<br>KL <b>%{y:.2e}</b><extra></extra>",
    }
    values = [*low, *high, *(kl for _, kl in runs if kl > 0)]
    across = [*x, *(bits for bits, _ in runs)]
    return {
        "summary": f"Expected KL at {len(points)} sizes from {min(x):g} to {max(x):g} bits per weight.",
        "data": [
            {**edge, "y": low},
            {**edge, "y": high, "fill": "tonexty", "fillcolor": "--accent-fill"},
            curve,
            *([came] if runs else []),
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {"range": [min(across) - 0.2, max(across) + 0.2], "title": {"text": "bits per weight"}},
            "yaxis": log_axis(*log_range(values), "KL to the original, nats per token"),
        },
    }
