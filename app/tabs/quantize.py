"""Quantize: presets first, every part of the recipe one fold away, the price before the start."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from app import forms
from app import widgets as w
from app.fields import OWN, Form, calibration_fields, rate_range, recipe_fields, run_fields
from app.forms import CUSTOM, METHOD
from app.page import Choices, Moment, Page, go
from app.price import price
from app.state import explain
from app.studio import Studio
from app.tabs.models import facts_line
from quip_engine.calibration import preview
from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.estimate import estimate
from quip_engine.methods.registry import resolve

PREVIEWED = 3  # texts shown
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
                copy = gr.Button("Copy command", size="lg", elem_classes="quiet")
            parts["command"] = w.html(elem_id="command")
    copy.click(None, None, None, js=COPY, **w.PRIVATE)
    _wire(Desk(page.studio, form), page.blocks, parts)
    return parts


def show(moment: Moment) -> dict[str, Any]:
    return {"start": gr.update(interactive=not moment.busy)}


def connect(page: Page) -> None:
    parts, outputs = page.built["Quantize"], [page.choices, page.tabs]
    parts["change"].click(lambda: go("Models"), None, page.tabs, **w.PRIVATE)
    parts["started"].then(
        lambda ok: (Choices(), go("Monitor")) if ok else (gr.skip(), gr.skip()), parts["ok"], outputs, **w.PRIVATE
    )


def _wire(desk: Desk, blocks: gr.Blocks, parts: dict[str, Any]) -> None:
    form, fields = desk.form, desk.form.fields
    priced = {"fn": desk.reprice, "inputs": form.inputs, "outputs": [parts["price"], parts["command"]], **w.LATEST}
    shown = [parts["note"], *form.recipe]

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
    plain = [fields[name].input for name in ("samples", "seqlen", "seed", "device")]
    typed = [event for name in ("own", "out") for event in (fields[name].blur, fields[name].submit)]
    gr.on([*plain, *typed], **priced)
    marked = {"inputs": form.inputs, "outputs": form.checked, **w.LATEST}
    gr.on([e for field in form.checked for e in w.edits(field)], lambda *given: form.marks(given), **marked)
    parts["fold"].expand(desk.preview, form.inputs, parts["preview"], **w.PRIVATE)

    form.model.change(desk.card, form.model, parts["card"], **w.PRIVATE).then(**priced)
    blocks.load(desk.card, form.model, parts["card"], **w.PRIVATE).then(**priced)
    outputs = [parts["start"], parts["price"], parts["ok"]]
    parts["started"] = parts["start"].click(desk.start, form.inputs, outputs, **w.PRIVATE)


class Desk:
    """What the tab answers to its fields."""

    def __init__(self, studio: Studio, form: Form) -> None:
        self.studio, self.form = studio, form

    def card(self, model: str) -> w.Html:
        """The chosen model in two lines."""
        try:
            facts = self.studio.facts(model)
        except Exception as error:
            return w.problem(explain(error))
        return w.heading(facts.name, facts_line(facts))

    def refill(self, *given: Any) -> list[Any]:
        """After another preset: the fold shows its recipe, at the bitrate that was asked for or the nearest it has."""
        fields = self.form.values(given)[1]
        return self._refilled(fields, RecipeConfig(self.form.preset(fields).name, fields["rate"]))

    def rerated(self, source: str, *given: Any) -> list[Any]:
        """After another bitrate, from the field ``source``: the fold shows the preset's recipe for it."""
        _, fields, parts = self.form.values(given)
        preset = self.form.preset(fields)
        try:
            own = forms.preset_options(preset.name, parts)
            return self._refilled(fields, RecipeConfig(preset.name, fields[source], options=own), source)
        except QuipError:  # the price says so
            return [gr.skip()] * (1 + len(self.form.recipe))

    def _refilled(self, fields: dict[str, Any], asked: RecipeConfig, source: str = "") -> list[Any]:
        preset = self.form.preset(fields)
        bits = forms.bits_for(preset, asked.bits)
        parts = forms.parts_of(replace(asked, bits=bits))
        dense = forms.is_dense(preset)
        buttons = {} if dense else {"choices": forms.bits_choices(preset), "value": bits}
        moved = {} if source == "rate" else {"value": bits}  # somebody may still be typing
        return [
            w.note(preset.summary),
            gr.skip(),
            gr.update(value=preset.name, visible=fields["preset"] == CUSTOM),
            gr.update(**buttons, visible=not dense),
            gr.update(**rate_range(preset), **moved, visible=dense),
            *self._filled(parts, self.form.options),
            *self._groups(parts),
        ]

    def rebuilt(self, *given: Any) -> list[Any]:
        """After a change of a preset's own option: the fold shows the parts it leads to."""
        _, fields, parts = self.form.values(given)
        preset = self.form.preset(fields)
        bits = forms.bits_for(preset, fields["rate"])
        try:
            shown = forms.parts_of(RecipeConfig(preset.name, bits, options=forms.preset_options(preset.name, parts)))
        except QuipError:  # the price says so
            return self.edited(*given)
        others = [key for key in self.form.options if key[0] != METHOD]
        choice = self._choice(fields, forms.Parts(shown.names, {**parts.values, **shown.values}))
        return [*choice, *self._filled(shown, others), *self._groups(shown)]

    def edited(self, *given: Any) -> list[Any]:
        """After a change inside the fold. Values stay: somebody may be typing."""
        _, fields, parts = self.form.values(given)
        same = [gr.skip()] * (len(self.form.slots) + len(self.form.options))
        return [*self._choice(fields, parts), *same, *self._groups(parts)]

    def _choice(self, fields: dict[str, Any], parts: forms.Parts) -> list[Any]:
        """Note, choice, preset and bitrate after a change: where the recipe is no preset any more, it is custom."""
        preset = self.form.preset(fields)
        bits = forms.bits_for(preset, fields["rate"])
        try:
            custom = forms.recipe_config(preset.name, bits, parts) != RecipeConfig(preset.name, bits)
        except QuipError:
            custom = True
        shown = [CUSTOM, gr.update(value=preset.name, visible=True)] if custom else [gr.skip()] * 2
        return [gr.skip(), *shown, gr.skip(), gr.skip()]

    def _filled(self, parts: forms.Parts, keys: Collection[forms.OptionKey]) -> list[Any]:
        """The parts, and of the options those of ``keys`` that these parts have. What the preset settles is hidden."""
        claimed = forms.claimed(parts.names[METHOD])
        updates = []
        for key in self.form.options:
            value = {"value": parts.values[key]} if key in keys and key in parts.values else {}
            updates.append(gr.update(**value, visible=key[0] == METHOD or key[2] not in claimed))
        return [*(parts.names[slot] for slot in self.form.slots), *updates]

    def _groups(self, parts: forms.Parts) -> list[Any]:
        """Options are shown for the chosen parts only."""
        return [gr.update(visible=parts.names[slot] == part) for slot, part in self.form.groups]

    def reprice(self, *given: Any) -> tuple[w.Html, w.Html]:
        """Estimates and command of the job as it is now, or what is wrong with it."""
        try:
            job = self.form.job(self.studio, given)
            facts, recipe = self.studio.facts(job.model), resolve(job.recipe)
            costs = estimate(facts, recipe, job.calibration, job.device)
        except Exception as error:
            return w.problem(explain(error)), w.Html("")
        return price(facts, recipe, job, costs), w.Html(f"<pre tabindex=0>{w.tag('code', forms.command(job))}</pre>")

    def preview(self, *given: Any) -> w.Html:
        """The beginnings of a few texts of the calibration source."""
        try:
            source = self.form.source(self.form.values(given)[1])
            texts = preview(source, PREVIEWED, offline=self.studio.offline)
        except Exception as error:
            return w.problem(explain(error))
        return w.joined([w.tag("blockquote", text) for text in texts])

    def start(self, *given: Any) -> Iterator[tuple[Any, Any, bool]]:
        """Check and start; problems take the place of the price."""
        yield gr.update(value="Checking…", interactive=False), gr.skip(), False
        try:
            self.studio.start(self.form.job(self.studio, given))
        except Exception as error:
            yield gr.update(value="Start", interactive=True), w.problem(explain(error), "This run cannot start."), False
            return
        yield gr.update(value="Start", interactive=False), gr.skip(), True
