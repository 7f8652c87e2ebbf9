"""Before a run: what each size is expected to cost, what came of earlier runs, and who gets the bits.

The curve is measured once for a model and a recipe (``expectations``). The map needs what errors of layers cost, which
the same measurement tells; then it follows every change of the size at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app import figures
from app import widgets as w
from app.figures.expectation import Came
from app.fmt import UNKNOWN, fixed, plural, rough, sci, size
from app.layer_views import short_layers
from app.live_plot import dumps, live_plot
from app.results import results
from app.size_fields import STAGE_HELP
from app.studio import Studio
from quip_engine.best import METHOD, best_job
from quip_engine.config import JobConfig
from quip_engine.expectation import Expectation, Point, between
from quip_engine.probe import ModelFacts
from quip_engine.spread import bits_map
from quip_engine.targets import Target

ASK, AGAIN = "What will each size cost?", "Measure again"
BEST = "Chooses method, embeddings and tuning for this size, whatever time it takes."
LEGEND = w.legend(("dot", "expected, with its error"), ("ring", "asked for"), ("diamond", "measured, this method"))
LEGEND = w.joined([LEGEND, w.legend(("diamond-grey", "measured, others"))])
COLUMNS = [("Bits", "num"), ("Size", "num"), ("KL to the original", "num"), ("Perplexity", "num"), ("Came", "num")]


def build() -> dict[str, Any]:
    """The components by name, in the order in which ``shown`` gives their values, behind the buttons."""
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes="bar"):
        parts["best"] = gr.Button("Best quality at this size", size="sm", elem_id="best")
        parts["said"] = w.html(w.note(BEST))
    with gr.Row(elem_classes="bar"):
        parts["ask"] = gr.Button(ASK, size="sm", elem_id="expect")
        parts["stop"] = gr.Button("Stop", variant="stop", size="sm", visible=False, elem_id="expect-stop")
        parts["hint"] = w.html(w.note("About a minute: rounding is simulated, then the model is asked."))
    parts["progress"] = w.html(visible=False, elem_id="expect-progress")
    with gr.Column(visible=False, elem_classes="within") as parts["curve"]:
        text = "KL to the original: how much less is known of the next token. A click on a point asks for its size."
        parts["plot"] = live_plot("Expected quality", text, legend=LEGEND, height=280, elem_id="plot-expect")
        with gr.Accordion("Expected quality as a table", open=False, elem_id="expect-fold"):
            parts["table"] = w.html(js_on_load=w.ACTIONS)
    with gr.Column(visible=False, elem_classes="within") as parts["map"]:
        text = "Bits of each layer. A click takes a layer into the bits by hand; the others share the rest."
        parts["tiles"] = live_plot("Who gets the bits", text, height=240, elem_id="plot-bits")
        with gr.Accordion("Bits of layers as a table", open=False, elem_id="bits-fold"):
            parts["cells"] = w.html(js_on_load=w.ACTIONS)
    return parts


SHOWN = ("said", "ask", "hint", "curve", "plot", "table", "map", "tiles", "cells")


def shown(studio: Studio, facts: ModelFacts, target: Target, job: JobConfig) -> list[Any]:
    """Values of ``SHOWN`` for a job."""
    found = studio.expectations.of(job)
    shared = bits_of(target, found)
    asking = [w.note(chosen(job)) if is_best(job, facts) else w.note(BEST)]
    asking += [gr.update(value=AGAIN if found else ASK), gr.update(visible=found is None)]
    curve: list[Any] = [gr.update(visible=False), gr.skip(), gr.skip()]
    if found:
        runs = came(studio, job)
        point = between(found.points, target.bits)
        figure = figures.expectation(found.points, point, runs) | {"foot": sentence(found, point, job)}
        curve = [gr.update(visible=True), dumps(figure), table(found.points, runs)]
    if not shared:
        return [*asking, *curve, gr.update(visible=False), gr.skip(), gr.skip()]
    layers = [layer._replace(projection=short) for layer, short in zip(facts.linear_layers, lanes(facts), strict=True)]
    projections, rows = bits_map(layers, shared)
    by_hand = {(x.block, projections.index(x.projection)) for x in layers if x.name in target.fixed}
    figure = figures.allocation(projections, rows, by_hand)
    tiles = dumps(figure | {"foot": spoken(target, shared)})
    return [*asking, *curve, gr.update(visible=True), tiles, cells(projections, rows)]


def is_best(job: JobConfig, facts: ModelFacts) -> bool:
    """Whether everything is chosen as ``best_job`` does."""
    return job.recipe.method == METHOD and bool(job.tuning.stages) and best_job(job, facts) == job


def chosen(job: JobConfig) -> str:
    """What is chosen for the best quality, in a sentence."""
    embeddings = f", embeddings in {job.budget.embeddings} bits" if job.budget.embeddings else ""
    tuning = " and ".join(STAGE_HELP[f"tune {stage}"][0].lower() for stage in job.tuning.stages)
    text = f"{job.calibration.samples} windows of calibration"
    return f"It is chosen: method {job.recipe.method}, {text}, tuning {tuning}{embeddings}."


def lanes(facts: ModelFacts) -> list[str]:
    """The short names of the layers' projections."""
    return list(short_layers(facts).values())


def bits_of(target: Target, found: Expectation | None) -> dict[str, float]:
    """The bits of each layer by module path; empty where all are alike, or it was not measured who needs them."""
    values = found.values if found else {}
    if not target.rule or (target.measured and not values):
        return {}
    return target.allocated(values).bits


def came(studio: Studio, job: JobConfig) -> list[Came]:
    """Evaluated runs of the job's model, the newest of each."""
    follower = studio.follower
    with follower.lock:
        runs = {run.id: run for run in follower.runs if run.job.model == job.model}
    found = {}
    for result in reversed(results(studio.evaluations.finished(), list(runs.values()))):
        if result.run and result.mean_kl and result.bits:
            run = runs[result.run]
            name = f"{result.method}{', tuned' if run.job.tuning.stages else ''} · {result.run.replace('-', ' ')}"
            same = result.method == job.recipe.method and bool(run.job.tuning.stages) == bool(job.tuning.stages)
            found[result.run] = Came(result.bits, result.mean_kl, name, same)
    return list(found.values())


# -- in words ----------------------------------------------------------------------------------------------------------


def sentence(found: Expectation, point: Point, job: JobConfig) -> str:
    """What is expected of the size that is asked for, and what that rests on."""
    kl = f"KL {sci(point.kl)} ± {sci(point.kl_error)}"
    ratio = f"perplexity × {fixed(point.ratio, 3)} ± {fixed(point.ratio_error, 3)}"
    whole = "the whole model" if len(found.blocks) == found.depth else f"{len(found.blocks)} of {found.depth} blocks"
    basis = f"Measured on {whole} in {rough(found.seconds)}, {plural(found.windows, 'window')} of text"
    without = [
        word for word, asked in (("tuning", job.tuning.stages), ("packed embeddings", job.budget.embeddings)) if asked
    ]
    besides = f", without {' and '.join(without)}" if without else ""
    return f"At {point.bits:.3g} bits: {kl}, {ratio}. {basis}{besides}."


def table(points: Sequence[Point], runs: Sequence[Came]) -> w.Html:
    """The curve as numbers, a button for each size."""
    rows = []
    for point in points:
        near = [sci(run.kl) for run in runs if run.same and abs(run.bits - point.bits) < 1e-3]
        rows.append(
            [
                f"{point.bits:g}",
                size(point.bytes),
                f"{sci(point.kl)} ± {sci(point.kl_error)}",
                f"× {fixed(point.ratio, 3)} ± {fixed(point.ratio_error, 3)}",
                ", ".join(near) or UNKNOWN,
                w.button("Use", f"{point.bits:g}"),
            ]
        )
    return w.table([*COLUMNS, ("", "act")], rows, "Expected quality at each size", "stack")


def spoken(target: Target, bits: dict[str, float]) -> str:
    """The map in a sentence."""
    most, least = max(bits, key=lambda name: bits[name]), min(bits, key=lambda name: bits[name])
    layers = {name: f"block {layer.block} {layer.projection}" for name, layer in target.prices.layers.items()}
    by_hand = f" {plural(len(target.fixed), 'layer')} by hand." if target.fixed else ""
    if bits[most] == bits[least]:
        return f"All layers have {bits[most]:.3g} bits.{by_hand}"
    return f"Most for {layers[most]} ({bits[most]:.3g}), least for {layers[least]} ({bits[least]:.3g}).{by_hand}"


def cells(projections: Sequence[str], rows: Sequence[Sequence[float | None]]) -> w.Html:
    """The map as numbers; each is a button that takes the layer into the bits by hand."""

    def cell(block: int, name: str, bits: float | None) -> object:
        return UNKNOWN if bits is None else w.button(f"{bits:.2f}", f"{block} · {name}", "link")

    columns = [("Block", "num"), *((name, "num") for name in projections)]
    table = [
        [block, *(cell(block, *pair) for pair in zip(projections, row, strict=True))] for block, row in enumerate(rows)
    ]
    return w.table(columns, table, "Bits of each layer by block and projection")
