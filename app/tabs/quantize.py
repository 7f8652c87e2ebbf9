"""Quantize: presets first, every part of the recipe one fold away, the price before the start."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from app import outlook
from app import widgets as w
from app.desk import LATER, MEASURE, Desk
from app.fields import OWN, Form, calibration_fields, recipe_fields, run_fields
from app.forms import METHOD
from app.outlook_desk import OutlookDesk
from app.page import Choices, Moment, Page, go
from app.size_fields import asked_fields, shared_fields, tuning_fields
from app.sizing import FITS, SIZE, values
from quip_engine.config import JobConfig

TYPED = (SIZE, FITS, "layers")  # fields of text: the price waits until they are left
PLAIN = tuple(name for name in values(JobConfig("", "")) if name not in (*TYPED, "sized"))
COPY = """() => {
  const code = document.querySelector('#command code'), range = document.createRange();
  range.selectNodeContents(code);                       // where the clipboard is closed, Ctrl-C copies the selection
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  navigator.clipboard?.writeText(code.textContent);
}"""


def build(page: Page) -> dict[str, Any]:
    """Build the tab; after the event ``started``, ``ok`` says how it went."""
    form = Form(page.model)
    parts: dict[str, Any] = {"ok": gr.State(False)}
    with gr.Row(elem_classes="wide"):
        with gr.Column(scale=7):
            with gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="bar"):
                    parts["card"] = w.html(w.heading("…", " "))
                    parts["change"] = gr.Button("Change model", size="sm")
                parts["note"] = recipe_fields(form)
            _size(form, parts)
            with gr.Column(elem_classes="card"):
                text = "The model reads it once, so that rounding errors land where they matter least."
                w.html(w.heading("Calibration text", text, 3))
                calibration_fields(form)
                with gr.Accordion("Preview", open=False) as parts["fold"]:
                    parts["preview"] = w.html()
            with gr.Accordion("Seed, device and output folder", open=False, elem_classes="card"):
                run_fields(form)
        with gr.Column(scale=5, elem_classes="sticky"), gr.Column(elem_classes="card"):
            w.html(w.heading("Before you start", "Estimates for this computer.", 3))
            parts["price"] = w.html(elem_id="price")
            with gr.Row(elem_classes="bar"):
                parts["start"] = gr.Button("Start", variant="primary", size="lg", elem_id="start")
                parts["enqueue"] = gr.Button(LATER, size="lg", visible=False, elem_id="enqueue")
                copy = gr.Button("Copy command", size="lg", elem_classes="quiet")
            parts["command"] = w.html(elem_id="command")
            parts["trouble"] = w.html(visible=False)
            with gr.Row(elem_classes="bar"):
                parts["measure"] = gr.Button(MEASURE, size="sm", elem_classes="quiet", elem_id="measure-layers")
                save = gr.Button("Save recipe", size="sm", elem_classes="quiet", elem_id="save-recipe")
                load = gr.UploadButton(
                    "Load recipe", file_types=[".json"], size="sm", elem_classes="quiet", elem_id="load-recipe"
                )
    copy.click(None, None, None, js=COPY, **w.PRIVATE)
    desk = Desk(page.studio, form, parts["note"])
    _wire(desk, parts)
    _keep(desk, page, parts, save, load)
    _look_ahead(OutlookDesk(desk), page, parts)
    return parts


def _size(form: Form, parts: dict[str, Any]) -> None:
    """The card "Size and tuning"."""
    with gr.Column(elem_classes="card", elem_id="sizing"):
        text = "How much the model may take, who gets the bits, and what is trained once it is packed."
        w.html(w.heading("Size and tuning", text, 3))
        asked_fields(form, form.preset({"preset": form.fields["preset"].value, "method": form.fields["method"].value}))
        parts |= outlook.build()
        with gr.Accordion("Embeddings, and which layers get more bits", open=False, elem_id="sharing") as parts[
            "sharing"
        ]:
            shared_fields(form)
        with gr.Accordion("Tuning: learn from what the original says", open=False, elem_id="tuning"):
            tuning_fields(form)


def show(moment: Moment) -> dict[str, Any]:
    waiting = any(run.status == "queued" or run.holds for run in moment.studio.follower.runs)
    return {"start": gr.update(interactive=not moment.busy), "enqueue": gr.update(visible=moment.busy or waiting)}


def connect(page: Page) -> None:
    parts, outputs = page.built["Quantize"], [page.choices, page.tabs]
    parts["change"].click(lambda: go("Models"), None, page.tabs, **w.PRIVATE)
    parts["started"].then(
        lambda ok: (Choices(), go("Monitor")) if ok else (gr.skip(), gr.skip()), parts["ok"], outputs, **w.PRIVATE
    )
    parts["enqueued"].then(lambda ok: go("Runs") if ok else gr.skip(), parts["ok"], page.tabs, **w.PRIVATE)


def _keep(desk: Desk, page: Page, parts: dict[str, Any], save: gr.Button, load: gr.UploadButton) -> None:
    """Recipes come from the last visit, from files and from other tabs."""
    inputs, priced = desk.form.inputs, _priced(desk, parts)
    page.blocks.load(desk.recalled, None, desk.everything, **w.PRIVATE).then(
        desk.card, desk.form.model, parts["card"], **w.PRIVATE
    ).then(**priced)
    refined = [parts["measure"], parts["price"]]
    parts["measure"].click(desk.measure, inputs, refined, **w.PRIVATE).then(**priced)
    carrier = gr.JSON(visible=False)
    written = save.click(desk.recipe_file, inputs, carrier, **w.PRIVATE)
    written.then(None, carrier, None, js=w.DOWNLOAD, **w.PRIVATE)
    load.upload(desk.loaded, [load, *inputs], [*desk.everything, parts["trouble"]], **w.PRIVATE).then(**priced)
    page.asked.change(desk.asked, page.asked, desk.everything, **w.PRIVATE).then(**priced)


def _look_ahead(desk: OutlookDesk, page: Page, parts: dict[str, Any]) -> None:
    """Sizes are measured on request; a click on what is shown asks for it."""
    form, priced = desk.form, _priced(desk.desk, parts)
    working = [parts[name] for name in ("ask", "stop", "progress")]
    parts["ask"].click(desk.expect, form.inputs, working, **w.PRIVATE, concurrency_limit=1).then(**priced)
    best = [*desk.desk.everything, parts["trouble"]]
    parts["best"].click(desk.best, form.inputs, best, **w.PRIVATE).then(**priced)
    parts["stop"].click(desk.stop, None, None, queue=False, **w.PRIVATE)
    page.blocks.unload(desk.stop)
    sized = [form.fields["sized"], desk.desk.note, *form.recipe, *form.ways.values()]
    layer = [form.fields["layers"], parts["sharing"]]
    for name in ("plot", "table"):
        parts[name].click(desk.take_bits, form.inputs, sized, **w.PRIVATE).then(**priced)
    for name in ("tiles", "cells"):
        parts[name].click(desk.take_layer, form.inputs, layer, **w.PRIVATE).then(**priced)


def _priced(desk: Desk, parts: dict[str, Any]) -> dict[str, Any]:
    """The event that says what the job as it is now costs."""
    outputs = [parts[name] for name in ("price", "command", *outlook.SHOWN)]
    return {"fn": desk.reprice, "inputs": desk.form.inputs, "outputs": outputs, **w.LATEST}


def _wire(desk: Desk, parts: dict[str, Any]) -> None:
    form, fields = desk.form, desk.form.fields
    priced = _priced(desk, parts)
    shown = [desk.note, *form.recipe]

    presets = [fields[name].input for name in ("preset", "method")]
    gr.on(presets, desk.refill, form.inputs, shown, **w.LATEST).then(**priced)
    for name in ("bits", "rate"):
        fields[name].input(partial(desk.rerated, name), form.inputs, shown, **w.LATEST).then(**priced)
    fields["rate"].change(**priced)  # a number beyond the ends becomes the end when the field is left
    own = [event for key, field in form.options.items() if key[0] == METHOD for event in w.edits(field)]
    gr.on(own, desk.rebuilt, form.inputs, shown, **w.LATEST).then(**priced)
    others = [*form.slots.values(), *(field for key, field in form.options.items() if key[0] != METHOD)]
    gr.on([e for c in others for e in w.edits(c)], desk.edited, form.inputs, shown, **w.LATEST).then(**priced)
    source = {"inputs": fields["source"], "outputs": fields["own"], **w.LATEST}
    fields["source"].input(lambda name: gr.update(visible=name == OWN), **source).then(**priced)
    ways = [*form.ways.values(), fields[SIZE], fields[FITS]]
    fields["sized"].input(desk.resized, form.inputs, ways, **w.LATEST).then(**priced)
    plain = [fields[name].input for name in ("samples", "seqlen", "seed", "device", *PLAIN)]
    typed = [event for name in ("own", "out", *TYPED) for event in (fields[name].blur, fields[name].submit)]
    gr.on([*plain, *typed], **priced)
    marked = {"inputs": form.inputs, "outputs": form.checked, **w.LATEST}
    gr.on([e for field in form.checked for e in w.edits(field)], lambda *given: form.marks(given), **marked)
    parts["fold"].expand(desk.preview, form.inputs, parts["preview"], **w.PRIVATE)

    form.model.change(desk.card, form.model, parts["card"], **w.PRIVATE).then(**priced)
    outputs = [parts["start"], parts["price"], parts["ok"]]
    parts["started"] = parts["start"].click(desk.start, form.inputs, outputs, **w.PRIVATE)
    outputs = [parts["enqueue"], parts["price"], parts["ok"]]
    parts["enqueued"] = parts["enqueue"].click(desk.enqueue, form.inputs, outputs, **w.PRIVATE)
