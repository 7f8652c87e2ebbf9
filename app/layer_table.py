"""The table of finished layers in the Monitor and in a report, and the same as CSV."""

from __future__ import annotations

import csv
import io
import math

from app import widgets as w
from app.fmt import UNKNOWN, duration, fixed, percent_change, sci
from app.state import RunView
from quip_engine import events

LATEST = 8  # rows before "Show all"
COLUMNS = [("Layer", "text"), ("Transform", "text"), ("Shape", "num"), ("Proxy loss", "num"), ("to {}", "num")]
COLUMNS += [("μ(W)", "num"), ("after", "num"), ("μ(H)", "num"), ("after", "num")]
COLUMNS += [("Bits", "num"), ("Time", "num")]


def table(view: RunView, previous: RunView | None, everything: bool = False) -> w.Html:
    """Finished layers, latest first. Columns against an earlier run and of trials only where there are any."""
    columns = [(t.format(previous.run.id.replace("-", " ")), k) for t, k in COLUMNS] if previous else list(COLUMNS)
    rows, number = [], {name: k for k, name in enumerate(view.lanes)}
    for layer in reversed(list(view.layers.values())[0 if everything else -LATEST :]):
        old = previous.layers.get(layer.name) if previous else None
        rows.append(
            [
                w.keyed(_layer_link(layer, view), number.get(layer.name)),
                layer.transform,
                w.keyed("{} × {}".format(*layer.shape), math.prod(layer.shape)),
                sci(layer.rel_proxy),
                change(layer.rel_proxy, old.rel_proxy) if old and old.rel_proxy > 0 else UNKNOWN,
                fixed(layer.mu_w_before, 1),
                fixed(layer.mu_w_after, 2),
                fixed(layer.mu_h_before, 1),
                fixed(layer.mu_h_after, 2),
                fixed(layer.bits_per_weight, 2),
                w.keyed(duration(layer.seconds), layer.seconds),
            ]
        )
    tried = any(layer.transform for layer in view.layers.values())
    kept = [i for i in range(len(columns)) if (i != 1 or tried) and (i != 4 or previous)]
    rows = [[row[i] for i in kept] for row in rows]
    return w.table([columns[i] for i in kept], rows, "Quantized layers, latest first")


def _layer_link(layer: events.LayerQuantized, view: RunView) -> w.Html:
    """The name of a layer; a click on it opens Inspect."""
    lane = view.lanes.get(layer.name, layer.projection)
    return w.button(f"block {layer.block} · {lane}", f"{layer.block} · {lane}", "link")


def as_csv(view: RunView) -> str:
    """The layer table as CSV with full precision, in order of work."""
    keys = ["name", "block", "projection", "rows", "columns", "bits_per_weight", "rel_proxy", "rel_mse", "mu_w_before"]
    keys += ["mu_w_after", "mu_h_before", "mu_h_after", "seconds", "transform"]
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for layer in view.layers.values():
        writer.writerow({**vars(layer), "rows": layer.shape[0], "columns": layer.shape[1]})
    return out.getvalue()


def change(new: float, old: float) -> w.Html:
    """By how many percent a loss is another one."""
    return w.tag("span", percent_change(new, old), "down" if new <= old else "up")
