"""How far one model's predictions are from another's along an answer."""

from __future__ import annotations

from collections.abc import Sequence

from app import fmt
from app.figures.base import Figure, line, log_axis, log_range

SPAN = 100  # what is further below the median is drawn at the lower end
NEAR = 3  # tokens: of labels so close to each other only that of the largest divergence is written


def divergence(words: Sequence[str], kl: Sequence[float], other: Sequence[str | None], name: str, run: str) -> Figure:
    """KL at each token of an answer; where ``name`` would say another word (``other``), that word is written."""
    least = max(sorted(kl)[len(kl) // 2] / SPAN, 1e-9) if kl else 1e-3
    values = [max(v, least) for v in kl]
    low, high = log_range(values or [least, 1.0], 0.08)
    same = [k for k, word in enumerate(other) if word is None]
    differ = [k for k, word in enumerate(other) if word is not None]
    labels = [
        _label(other[k]) if values[k] == max(values[j] for j in differ if abs(j - k) <= NEAR) else "" for k in differ
    ]
    said = [f"{_shown(words[k])}<br>{_escape(name)} would say: <b>{_shown(other[k] or '')}</b>" for k in differ]
    stems = [(x, y) for k in differ for x, y in ((k + 1, low), (k + 1, values[k]), (None, None))]
    return {
        "run": run,
        "summary": f"KL divergence at each of {fmt.plural(len(words), 'token')}; at {len(differ)} of them {name} would "
        "say another word. The table has these.",
        "data": [
            line("--error", "stems", width=1, x=[x for x, _ in stems], y=[y and _round(y) for _, y in stems]),
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
            "yaxis": log_axis(low, 2 * high, "KL, nats"),
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
