"""Figures of an evaluation: how it converges, what quality costs in size, and where the damage arises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.figures.base import Figure, Lanes, line, log_axis, log_range, pack

MOST = 240  # points of the running figures


@dataclass(frozen=True)
class Model:
    """A measured model as the figures see it."""

    name: str
    bytes: int
    perplexity: float
    error: float | None
    original: bool  # drawn as what the others came from
    shown: bool  # the one whose details are on the page


def convergence(scored: Sequence[tuple[int, dict[str, Any]]], total: int, run: str) -> Figure:
    """Perplexity of the windows so far with its standard error, the original's below it. (windows, figures) each."""
    kept = [point for point in scored if point[0] > 1]
    kept = kept[:: max(1, math.ceil(len(kept) / MOST))] + kept[-1:]
    traces: list[Figure] = []
    for key, colour, name in (("original_perplexity", "--before", "original"), ("perplexity", "--accent", "model")):
        points = [(n, f[key], f[f"{key}_error"]) for n, f in kept if f.get(key) is not None]
        if points:
            traces += _banded(points, colour, name)
    late = [f for n, f in kept if n >= kept[-1][0] / 4]
    ends = [f[k] + s * (f[f"{k}_error"] or 0) for f in late for k in KEYS if f.get(k) is not None for s in (-1, 1)]
    return {
        "run": run,
        "summary": f"Perplexity after each of {len(scored)} windows; the figures above say the same.",
        "data": traces,
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {"range": [1, total], "title": {"text": "windows scored"}},
            "yaxis": {"range": _around(ends), "title": {"text": "perplexity so far"}},
        },
    }


KEYS = ("perplexity", "original_perplexity")


def _banded(points: Sequence[tuple[float, float, float | None]], colour: str, name: str) -> list[Figure]:
    """A line with the band of its standard error: filled in the accent colour, between thin lines in others."""
    x = [n for n, _, _ in points]
    low, high = (pack([v + s * (e or 0) for _, v, e in points]) for s in (-1, 1))
    filled = colour == "--accent"
    edge = line(colour, f"{name} band", width=0 if filled else 1, dash="dot", opacity=0.6, x=x)
    return [
        {**edge, "y": low},
        {**edge, "y": high, **({"fill": "tonexty", "fillcolor": "--accent-fill"} if filled else {})},
        {
            **line(colour, name, width=1.75, x=x, y=pack(v for _, v, _ in points)),
            "hoverinfo": "all",
            "hovertemplate": f"{name}, %{{x}} windows<br><b>%{{y:.3f}}</b><extra></extra>",
        },
    ]


def _around(values: Sequence[float], pad: float = 0.12) -> list[float]:
    low, high = min(values, default=1.0), max(values, default=2.0)
    margin = pad * (high - low) or 0.05 * high
    return [round(low - margin, 5), round(high + margin, 5)]


def frontier(models: Sequence[Model]) -> list[Model]:
    """Those that no smaller or equal model beats in perplexity, smallest first."""
    best, found = math.inf, []
    for model in sorted(models, key=lambda m: (m.bytes, m.perplexity)):
        if model.perplexity < best:
            best = model.perplexity
            found.append(model)
    return found


def quality(models: Sequence[Model], run: str) -> Figure:
    """Perplexity with its standard error against size on disk; what nothing beats is joined."""
    unit, name = (1e9, "GB") if max(m.bytes for m in models) >= 1e9 else (1e6, "MB")
    front = frontier(models)
    joined = line("--accent", "frontier", width=1.25, dash="dot", opacity=0.7)
    joined |= {"x": [round(m.bytes / unit, 4) for m in front], "y": [m.perplexity for m in front]}
    sizes = [m.bytes / unit for m in models]
    span = max(max(sizes) - min(sizes), 0.2 * max(sizes))
    values = [m.perplexity + s * (m.error or 0) for m in models for s in (-1, 1)]
    steep = max(values) > 3 * min(values) > 0
    title = "perplexity, lower is better"
    return {
        "run": run,
        "summary": f"Perplexity against size on disk for {len(models)} models; the results table has the numbers.",
        "data": [joined, *(_dots(models, unit, name, original) for original in (False, True))],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {
                "range": [round(min(sizes) - 0.1 * span, 4), round(max(sizes) + 0.25 * span, 4)],
                "title": {"text": f"weights on disk, {name}"},
            },
            "yaxis": log_axis(*log_range(values), title)
            if steep
            else {"range": _around(values, 0.2), "title": {"text": title}},
        },
    }


def _dots(models: Sequence[Model], unit: float, name: str, original: bool) -> Figure:
    chosen = [m for m in models if m.original == original]
    colour = "--before" if original else "--accent"
    bars = {"type": "data", "array": [m.error or 0 for m in chosen], "thickness": 1, "width": 3}
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "original" if original else "quantized",
        "x": [round(m.bytes / unit, 4) for m in chosen],
        "y": [m.perplexity for m in chosen],
        "text": [m.name for m in chosen],
        "textposition": _places(models, chosen),
        "textfont": {"size": 12, "color": "--ink-2"},
        "error_y": {**bars, "color": "--line-strong"},
        "marker": {
            "size": [(12 if m.shown else 9) + original for m in chosen],
            "color": colour,
            "symbol": "diamond" if original else "circle",
            "line": {"width": [1.5 if m.shown else 0 for m in chosen], "color": "--ink"},
        },
        "cliponaxis": False,
        "hovertemplate": f"%{{text}}<br>%{{x:.3g}} {name}<br>perplexity <b>%{{y:.3f}}</b><extra></extra>",
    }


def _places(models: Sequence[Model], chosen: Sequence[Model]) -> list[str]:
    """Names to the right; above and below in turn where another model is about as large."""
    places = []
    for model in chosen:
        near = [m for m in models if abs(m.bytes - model.bytes) < 0.08 * max(m.bytes for m in models)]
        near.sort(key=lambda m: -m.perplexity)
        at = near.index(model)
        places.append(
            "middle right" if len(near) == 1 or 0 < at < len(near) - 1 else ("bottom right", "top right")[at == 0]
        )
    return places


def along_text(positions: Sequence[dict[str, Any]], run: str) -> Figure:
    """Mean KL by the number of tokens read before, with its standard error."""
    points = [((p["first"] + p["last"]) / 2, p["kl"], p["kl_error"]) for p in positions]
    traces = _banded(points, "--accent", "KL")
    traces[-1] |= {
        "mode": "lines+markers",
        "marker": {"size": 4, "color": "--accent"},
        "customdata": [f"{p['first']} to {p['last']}" for p in positions],
        "text": [f"{100 * p['agreement']:.0f} %" for p in positions],
        "hovertemplate": "%{customdata} tokens read<br>KL <b>%{y:.2e}</b><br>same top token %{text}<extra></extra>",
    }
    high = max(v + (e or 0) for _, v, e in points)
    return {
        "run": run,
        "summary": f"KL to the original along the window in {len(positions)} bins; the sentence below says where.",
        "data": traces,
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {"range": [0, positions[-1]["last"] + 1], "title": {"text": "tokens read before"}},
            "yaxis": {"range": [0, round(1.1 * high or 1.0, 6)], "title": {"text": "KL, nats per token"}},
        },
    }


def block_damage(blocks: Sequence[dict[str, Any]], run: str) -> Figure:
    """Relative error of the hidden states after each block."""
    x, y = [b["block"] for b in blocks], [100 * b["error"] for b in blocks]
    dots = {
        "mode": "lines+markers",
        "marker": {"size": 6, "color": "--accent"},
        "error_y": {
            **{"type": "data", "array": [100 * (b["error_error"] or 0) for b in blocks], "thickness": 1, "width": 0},
            "color": "--line-strong",
        },
        "customdata": [round(b["cosine"], 5) for b in blocks],
        "hoverinfo": "all",
        "hovertemplate": "after block %{x}<br>error <b>%{y:.2f} %</b><br>cosine %{customdata:.4f}<extra></extra>",
    }
    return {
        "run": run,
        "summary": f"Relative error of the hidden states after each of {len(blocks)} blocks.",
        "data": [{**line("--accent", "error", width=1.75, x=x, y=y), **dots}],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "xaxis": {
                "range": [-0.5, len(blocks) - 0.5],
                "dtick": max(1, len(blocks) // 8),
                "tick0": 0,
                "title": {"text": "after block"},
            },
            "yaxis": {"range": [0, round(1.15 * max(y) or 1.0, 4)], "title": {"text": "error of the states, %"}},
        },
    }


def layer_damage(values: dict[tuple[str, int], float], lanes: Lanes, run: str) -> Figure:
    """KL of the original with one layer of the model, for each layer by (lane, block)."""
    series = lanes.series({place: v if v > 0 else None for place, v in values.items()})
    low, high = log_range([v for v in series if v is not None] or [1e-4, 1e-2])
    return {
        "run": run,
        "summary": f"KL that each of {len(values)} layers causes alone, by projection and block.",
        "data": [
            {
                **line("--accent", "alone", width=1.5, y=pack(series, log=True)),
                "mode": "lines+markers",
                "marker": {"size": 5, "color": "--accent"},
                "customdata": lanes.places(),
                "hoverinfo": "all",
                "hovertemplate": "block %{customdata}<br>KL alone <b>%{y:.2e}</b><extra></extra>",
            }
        ],
        "layout": {**lanes.layout(), "yaxis": log_axis(low, high, "KL of this layer alone")},
    }
