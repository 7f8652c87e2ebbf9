"""The figure of who gets the bits: one tile a layer, blocks down, projections across."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from app.figures.base import RAMP, Figure

Rows = Sequence[Sequence[float | None]]


def allocation(projections: Sequence[str], rows: Rows, by_hand: Collection[tuple[int, int]] = ()) -> Figure:
    """Bits of each layer as ``spread.bits_map`` gives them; None: no such layer.

    ``by_hand``: (block, column) of layers that no rule has touched, framed. A click tells the layer: ``3 · down_proj``.
    """
    known = [bits for row in rows for bits in row if bits is not None]
    low, high = min(known), max(known)
    frames = [_frame(block, column) for block, column in sorted(by_hand)]
    bare = {"showgrid": False, "showline": False, "ticks": ""}
    return {
        "summary": f"Bits of {len(known)} layers, {low:.2f} to {high:.2f}: rows are blocks, columns are projections.",
        "data": [
            {
                "type": "heatmap",
                "x": list(projections),
                "z": [[None if bits is None else round(bits, 3) for bits in row] for row in rows],
                "xgap": 3,
                "ygap": 3 if len(rows) < 48 else 1,
                "colorscale": RAMP,
                "zmin": low if low < high else low - 0.5,
                "zmax": high if low < high else high + 0.5,
                "hoverongaps": False,
                "hovertemplate": "block %{y} · %{x}<br><b>%{z:.2f} bits</b><extra></extra>",
                "colorbar": _bar(),
            }
        ],
        "layout": {
            "margin": {"l": 28, "r": 4, "t": 22, "b": 8},
            "xaxis": {**bare, "type": "category", "side": "top", "tickfont": {"size": 12, "color": "--ink"}},
            "yaxis": {**bare, "range": [len(rows) - 0.5, -0.5], "dtick": max(1, len(rows) // 8), "tick0": 0},
            "shapes": frames,
        },
    }


def _bar() -> Figure:
    style = {"thickness": 8, "len": 1, "outlinewidth": 0, "x": 1.02, "xpad": 4, "ypad": 0, "nticks": 5}
    return {**style, "tickfont": {"size": 11, "color": "--ink-3"}}


def _frame(block: int, column: int) -> Figure:
    place = {"x0": column - 0.47, "x1": column + 0.47, "y0": block - 0.46, "y1": block + 0.46}
    return {"type": "rect", **place, "line": {"color": "--ink", "width": 2}}
