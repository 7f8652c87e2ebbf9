"""Inspect: one layer under the microscope, and a race of methods on it. Every picture says what one is looking at."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from app import layer_views as says
from app import widgets as w
from app.layer_desk import Desk
from app.live_plot import live_plot
from app.page import Choices, Moment, Page, go
from quip_engine.problem import FEW

# One of these at a time on the whole server: they would only slow each other down.
ALONE: dict[str, Any] = {**w.PRIVATE, "concurrency_id": "inspect", "concurrency_limit": 1}


def build(page: Page) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card"):
        with gr.Row(elem_id="inspect-picker"):
            parts["source"] = w.Dropdown(says.sources(page.studio), value=None, label="Run or model", min_width=200)
            parts["block"] = w.Dropdown([], label="Block", min_width=80)
            parts["projection"] = w.Dropdown([], label="Projection", min_width=110)
            parts["recipe"] = w.Dropdown(says.recipe_choices(), value=says.USUAL, label="Quantized with", min_width=150)
            parts["look"] = gr.Button("Inspect", variant="primary", size="md", elem_id="look")
        parts["progress"] = w.html(visible=False, elem_id="inspect-progress")
        parts["stop"] = gr.Button("Stop", variant="stop", size="sm", visible=False, elem_id="inspect-stop")
        with gr.Column(visible=False, elem_classes="plain") as parts["figures"]:
            parts["head"] = w.html(elem_id="inspect-head")
            parts["numbers"] = w.html()
    parts["trouble"] = w.html(visible=False)
    text = "Choose one above: its weights before and after the transform, what the inputs use of them, what was lost."
    parts["nothing"] = w.html(w.empty("A layer under the microscope", text))
    with gr.Column(visible=False) as parts["body"]:
        _plots(parts)
        _race(parts)
    return parts


def _plots(parts: dict[str, Any]) -> None:
    text = "Largest |w| in each tile, in units of the RMS. One colour scale for all three; zoom one and all follow."
    parts["maps"] = live_plot("Weights", text, height=428, elem_id="plot-maps")
    marks = w.legend(("orange", "before"), ("line", "after the transform"), ("gauss", "Gaussian"))
    ends = w.legend(("diamond", "before"), ("dot", "after the transform"))
    with gr.Row(elem_classes="wide one-one"):
        with gr.Column(min_width=320):
            text = "Density at each size, log scale: a Gaussian is a parabola, and an outlier cannot hide."
            parts["histogram"] = live_plot("Distribution", text, legend=marks, height=300, elem_id="plot-histogram")
        with gr.Column(min_width=320):
            text = f"How strongly the inputs use each direction: {FEW.samples} windows of text through the original."
            parts["spectrum"] = live_plot("Spectrum of the Hessian", text, height=324, elem_id="plot-spectrum")
    with gr.Row(elem_classes="wide one-one"):
        with gr.Column(min_width=320):
            text = "The largest weight of each row, in the order of rows and sorted."
            parts["outliers"] = live_plot("Outliers by row", text, legend=ends, height=300, elem_id="plot-outliers")
        with gr.Column(min_width=320):
            text = "What the weights are rounded to."
            parts["codebook"] = live_plot("The codebook", text, height=324, elem_id="plot-codebook")


def _race(parts: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card", elem_id="race"):
        with gr.Row(elem_classes="bar"):
            text = "Quantizes just this layer with each method, before hours are spent on the model."
            w.html(w.heading("Method race", text, 3))
            parts["run"] = gr.Button("Race", variant="primary", size="md", elem_id="run-race")
            parts["halt"] = gr.Button("Stop", variant="stop", size="md", interactive=False, elem_id="stop-race")
        parts["racers"] = w.Dropdown(
            says.recipe_choices(),
            value=[],
            multiselect=True,
            label="Methods",
            info="Any preset at any of its bitrates; they run one after the other.",
            elem_id="racers",
        )
        parts["race-trouble"] = w.html(visible=False)
    with gr.Row(elem_classes="wide one-one", visible=False) as parts["results"]:
        with gr.Column(min_width=320):
            text = "Down and to the left is better."
            marks = w.legend(("dot", "front"), ("dot-grey", "beaten by another"), ("dots", "no code goes below"))
            parts["race"] = live_plot("Loss against bits", text, legend=marks, height=340, elem_id="plot-race")
        with gr.Column(min_width=320, elem_classes="card"):
            w.html(w.heading("Results", "A recipe is taken over with its usual options.", 3))
            parts["table"] = w.html(elem_id="race-table", js_on_load=w.ACTIONS)


def connect(page: Page) -> None:
    parts = page.built["Inspect"]
    desk, asked = Desk(page.studio, parts, gr.State(None)), gr.State(None)
    picker = [parts[name] for name in ("source", "block", "projection", "recipe")]
    outputs = desk.outputs
    page.blocks.load(desk.first, page.model, picker, **w.PRIVATE)
    parts["source"].input(desk.refill, parts["source"], picker[1:], **w.LATEST)
    parts["block"].input(desk.reblock, picker[:2], parts["projection"], **w.LATEST)
    parts["look"].click(desk.look, picker, outputs, **ALONE)
    asked.change(desk.open, asked, [*picker, *outputs], **ALONE)
    parts["stop"].click(desk.stop, None, None, queue=False, **w.PRIVATE)
    parts["run"].click(desk.race, [desk.shown, parts["racers"]], outputs, **ALONE)
    parts["halt"].click(desk.stop, None, None, queue=False, **w.PRIVATE)
    parts["table"].click(desk.use, desk.shown, [page.asked, page.tabs], **w.PRIVATE)
    _listen(page, asked)


def _listen(page: Page, asked: gr.State) -> None:
    """A click on a layer in the Monitor opens it here."""
    monitor = page.built["Monitor"]

    def open_layer(choices: Choices, event: gr.EventData) -> tuple[Any, Any]:
        view, _ = page.studio.follower.chosen(choices.run)
        if view is None:
            return gr.skip(), gr.skip()
        return (view.run.id, str(event._data["action"]), time.monotonic_ns()), go("Inspect")

    for name in ("loss", "tiles", "bits", "mu_w", "mu_h", "layers"):
        monitor[name].click(open_layer, page.choices, [asked, page.tabs], **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """Finished runs can be looked at as soon as they are there."""
    return {"source": gr.update(choices=says.sources(moment.studio))}
