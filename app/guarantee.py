"""The guarantee: for each layer what theory allows, beside what was measured."""

from __future__ import annotations

from dataclasses import fields
from statistics import median

from app import figures
from app import widgets as w
from app.fmt import UNKNOWN, fixed, sci
from app.state import RunView
from quip_engine import events
from quip_engine.linalg.guarantee import DELTA, RIDGE, Bounds, Traces, bounds

COLUMNS = [("Layer", "text"), ("tr D / tr H", "num"), ("Measured", "num"), ("Average case", "num"), ("of it", "num")]
COLUMNS += [("μ bound", "num"), ("of it", "num"), ("a priori", "num"), ("Limit", "num"), ("Bits above", "num")]
CONSTANTS = (
    f"mse is the codebook's error on a standard Gaussian; energy = m·mean(W̃²)·tr(H) / tr(W H Wᵀ); D from H with "
    f"{100 * RIDGE:g} % of its mean diagonal added, in blocks of g columns. Without feedback: energy·mse. Average case "
    "(QuIP, theorem 1): that times tr D / tr H. μ bound (QuIP lemma 2, QuIP# theorem 4.1): "
    "g·μ²·energy·mse·tr(H^½)² / (n·tr H) with the measured μ of H after the transform; a priori: with "
    f"μ² = 2 ln(2n²/δ), δ = {DELTA:g} (QuIP# lemma 3.1). Limit: reverse water-filling of the eigenvalues of H at the "
    "layer's bits; no code of any kind does better on independent weights."
)

KNOWN = {field.name for field in fields(Traces)}


def lines_of(layer: events.LayerQuantized) -> tuple[Traces, Bounds]:
    """What theory says of a finished layer; all unknown for logs of an earlier version."""
    told = dict(layer.theory)
    mse = told.pop("mse", None)
    found = Traces(**{key: value for key, value in told.items() if key in KNOWN})  # type: ignore[arg-type]
    if mse is None:
        return found, Bounds(None, None, None, None, found.limit)
    return found, bounds(found, mse, layer.mu_h_after, layer.shape[1])


def plot(view: RunView) -> figures.Figure:
    """The figure; empty while no layer has a theory."""
    layers = [
        figures.Guaranteed(view.lanes[x.name], x.block, x.rel_proxy, b.average, b.incoherence, b.limit)
        for x in view.layers.values()
        if x.theory and x.name in view.lanes
        for b in (lines_of(x)[1],)
    ]
    return figures.guarantee(layers, view.axis, view.run.id) if layers else {}


def verdict(view: RunView) -> w.Html:
    """One or two sentences: how far the run is from what is possible, and what feedback did."""
    found = [(x, *lines_of(x)) for x in view.layers.values() if x.theory]
    if not found:
        return w.note("Told as soon as the first layer is finished." if view.run.alive else "This run recorded none.")
    above = [t.distance for _, t, _ in found if t.distance is not None]
    share = [x.rel_proxy / b.limit for x, _, b in found if b.limit]
    left = [t.feedback for _, t, _ in found if t.feedback is not None]
    said = []
    if above:
        said.append(
            f"In the middle the loss is {median(share):.2f} times the least that any code of these bits could reach: "
            f"{median(above):.2f} bits per weight away from it."
        )
    if left:
        said.append(f"Feedback leaves {100 * median(left):.0f} % of what rounding each weight by itself would lose.")
    return w.note(" ".join(said))


def table(view: RunView) -> w.Html:
    """Every layer in numbers, and the constants behind them."""
    rows: list[list[object]] = []
    for x in view.layers.values():
        found, b = lines_of(x)
        name = w.keyed(f"block {x.block} · {view.lanes.get(x.name, x.projection)}", len(rows))
        shares = [fixed(x.rel_proxy / of, 2) if of else UNKNOWN for of in (b.average, b.incoherence)]
        figures_of = [
            fixed(found.feedback, 3),
            sci(x.rel_proxy),
            sci(b.average),
            shares[0],
            sci(b.incoherence),
            shares[1],
        ]
        rows.append([name, *figures_of, sci(b.a_priori), sci(b.limit), fixed(found.distance, 2)])
    return w.joined([w.note(CONSTANTS), w.table(COLUMNS, rows, "Theory and measurement of every layer")])
