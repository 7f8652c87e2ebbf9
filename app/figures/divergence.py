"""How far one model's predictions are from another's along an answer."""

from __future__ import annotations

from collections.abc import Sequence

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range

LEAST = 1e-6  # nats: what is below is drawn here
NEAR = 3  # tokens: of labels so close to each other only that of the largest divergence is written


def divergence(words: Sequence[str], kl: Sequence[float], other: Sequence[str | None], name: str, run: str) -> Figure:
    """KL at each token of an answer; where ``name`` would say another word (``other``), that word is written."""
    values = [max(v, LEAST) for v in kl]
    low, high = log_range(values or [1e-3, 1.0], 0.08)
    high *= 2  # room for the labels
    same = [k for k, word in enumerate(other) if word is None]
    differ = [k for k, word in enumerate(other) if word is not None]
    ends = [
        (v for k in differ for v in pair(k))
        for pair in (lambda k: (k + 1, k + 1, None), lambda k: (low, values[k], None))
    ]
    labels = [
        _label(other[k]) if values[k] == max(values[j] for j in differ if abs(j - k) <= NEAR) else "" for k in differ
    ]
    said = [f"{_shown(words[k])}<br>{_escape(name)} would say: <b>{_shown(other[k] or '')}</b>" for k in differ]
    return {
        "run": run,
        "summary": f"KL divergence at each of {fmt.plural(len(words), 'token')}; at {len(differ)} of them {name} would "
        "say another word. The table has these.",
        "data": [
            line("--error", "stems", width=1, x=list(ends[0]), y=[v and _round(v) for v in ends[1]]),
            _dots(same, values, [_shown(words[k]) for k in same], size=6, color="--accent"),
            {
                **_dots(differ, values, said, size=8, color="--error", symbol="square"),
                **{"mode": "markers+text", "text": labels, "textposition": "top center", "cliponaxis": False},
                "textfont": {"size": 12, "color": "--ink"},
            },
        ],
        "layout": {
            "margin": {"l": 52, "r": 8, "t": 12, "b": 44},
            "xaxis": {"title": {"text": "token of the answer"}, "showgrid": False, "range": [0, len(words) + 1]},
            "yaxis": log_axis(low, high, "KL, nats"),
        },
    }


def _dots(rows: Sequence[int], values: Sequence[float], hover: Sequence[str], **marker: object) -> Figure:
    return {
        **{"type": "scatter", "mode": "markers", "marker": marker},
        "x": [k + 1 for k in rows],
        "y": [_round(values[k]) for k in rows],
        "customdata": list(hover),
        "hovertemplate": "%{customdata}<br>KL <b>%{y:.2e}</b><extra></extra>",
    }


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _label(word: str | None) -> str:
    text = (word or "").strip()
    return _escape(text if len(text) <= 12 else f"{text[:11]}…")


def _shown(word: str) -> str:
    return _escape(word.strip() or "space")


def _escape(text: str) -> str:
    """Plotly reads tags in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
