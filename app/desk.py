"""What the Quantize tab answers to its fields.

A preset fills the fold, a change in the fold makes it custom, a job fills all of it, and every change has its price.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import forms
from app import widgets as w
from app.drafts import Draft
from app.fields import OWN, Form, rate_range
from app.fmt import count
from app.forms import CHOICES, CUSTOM, METHOD
from app.price import price
from app.state import explain
from app.studio import Studio
from app.tabs.models import facts_line
from quip_engine.calibration import SETS, preview
from quip_engine.config import JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.estimate import Rates, estimate, measured
from quip_engine.methods.registry import Recipe, presets, resolve
from quip_engine.recipe_file import read_recipe, recipe_text

PREVIEWED = 3  # texts shown
MEASURE, LATER = "Measure the time", "Add to queue"


def token_counts(folder: str, texts: list[str]) -> list[int]:
    """How many tokens of a model's tokenizer each text has."""
    from quip_engine.loading import load_tokenizer  # noqa: PLC0415 - transformers

    return [
        len(ids) for ids in load_tokenizer(Path(folder))(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ]


class Desk:
    """What the tab answers to its fields."""

    def __init__(self, studio: Studio, form: Form, note: Any) -> None:
        self.studio, self.form, self.note, self.draft = studio, form, note, Draft(studio.home)
        self.rates: dict[tuple[str, Recipe, str], Rates] = {}

    @property
    def everything(self) -> list[Any]:
        """The model and all fields, in the order of ``filled``."""
        last = [self.form.fields[name] for name in ("source", "own", "samples", "seqlen", "seed", "device", "out")]
        return [self.form.model, self.note, *self.form.recipe, *last]

    def filled(self, job: JobConfig) -> list[Any]:
        """``everything`` as a job has it. Raises the coded errors of a recipe that this version cannot make."""
        recipe, text = job.recipe, job.calibration
        resolve(recipe)
        named = next((choice for choice, method in CHOICES.items() if method == recipe.method), CUSTOM)
        preset = named if recipe == RecipeConfig(recipe.method, recipe.bits) else CUSTOM
        bits = forms.bits_for(presets.get(recipe.method), recipe.bits)
        note, _, *parts = self._refilled({"preset": preset, "method": recipe.method}, replace(recipe, bits=bits))
        own = text.source not in SETS
        source = [OWN, gr.update(value=text.source, visible=True)] if own else [text.source, gr.update(visible=False)]
        return [job.model, note, preset, *parts, *source, text.samples, text.seqlen, job.seed, job.device, job.out]

    def recalled(self) -> list[Any]:
        """``everything`` as it was when the page was last open."""
        try:
            if draft := self.draft.load():
                return self.filled(draft)
        except QuipError:  # a part of it has gone
            pass
        return [gr.skip()] * len(self.everything)

    def recipe_file(self, *given: Any) -> list[str]:
        """Name and content of the recipe as a file; nothing while a field is wrong, which the price says."""
        try:
            job = self.form.job(self.studio, given)
        except QuipError:
            return ["", ""]
        return [f"{forms.stem(job.recipe)}.json", recipe_text(job)]

    def asked(self, job: tuple[dict[str, Any], int] | None) -> list[Any]:
        """``everything`` as another tab has asked for it (``page.ask``)."""
        return self.filled(JobConfig.from_json(job[0])) if job else [gr.skip()] * len(self.everything)

    def loaded(self, path: str, *given: Any) -> list[Any]:
        """``everything`` after a recipe file, and the banner that says what is wrong with it."""
        model, fields, _ = self.form.values(given)
        try:
            job = read_recipe(Path(path), JobConfig(model, (fields["out"] or "").strip(), device=fields["device"]))
            return [*self.filled(job), gr.update(visible=False)]
        except Exception as error:
            banner = gr.update(value=w.problem(explain(error)), visible=True)
            return [*[gr.skip()] * len(self.everything), banner]

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

    def measure(self, *given: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Refine the time with one of the model's layers: button, price and command."""
        try:
            job = self.form.job(self.studio, given)
            facts, recipe = self.studio.facts(job.model), resolve(job.recipe)
            yield gr.update(value="Measuring one layer…", interactive=False), gr.skip(), gr.skip()
            self.rates[job.model, recipe, job.device] = measured(facts, recipe, job.device)
        except Exception as error:
            yield gr.update(value=MEASURE, interactive=True), w.problem(explain(error)), gr.skip()
            return
        yield gr.update(value=MEASURE, interactive=True), *self.reprice(*given)

    def reprice(self, *given: Any) -> tuple[w.Html, w.Html]:
        """Estimates and command of the job as it is now, or what is wrong with it."""
        try:
            job = self.form.job(self.studio, given)
            facts, recipe = self.studio.facts(job.model), resolve(job.recipe)
            rates = self.rates.get((job.model, recipe, job.device))
            costs = estimate(facts, recipe, job.calibration, job.device, rates)
            self.draft.save(job, (self.form.values(given)[1]["out"] or "").strip())
        except Exception as error:
            return w.problem(explain(error)), w.Html("")
        return price(facts, recipe, job, costs, rates is not None), w.Html(
            f"<pre tabindex=0>{w.tag('code', forms.command(job))}</pre>"
        )

    def preview(self, *given: Any) -> w.Html:
        """The beginnings of a few texts of the calibration source, and how many tokens they are."""
        model, fields, _ = self.form.values(given)
        try:
            text = forms.calibration_config(self.form.source(fields), fields["samples"], fields["seqlen"])
            texts = preview(text.source, PREVIEWED, offline=self.studio.offline)
            tokens = token_counts(self.studio.facts(model).path, texts)
        except Exception as error:
            return w.problem(explain(error))
        total = f"The run reads {text.samples} × {text.seqlen} = {count(text.samples * text.seqlen)} tokens of it."
        shown = [
            w.tag("blockquote", w.joined([t, w.Html(f"<cite>{n} tokens</cite>")]))
            for t, n in zip(texts, tokens, strict=True)
        ]
        return w.joined([w.note(total), *shown])

    def start(self, *given: Any) -> Iterator[tuple[Any, Any, bool]]:
        """Check and start; problems take the place of the price."""
        yield from self._begin(self.studio.start, "Start", given)

    def enqueue(self, *given: Any) -> Iterator[tuple[Any, Any, bool]]:
        """The same, behind the runs that wait."""
        yield from self._begin(self.studio.enqueue, LATER, given)

    def _begin(
        self, work: Callable[[JobConfig], object], name: str, given: tuple[Any, ...]
    ) -> Iterator[tuple[Any, Any, bool]]:
        """The button, the price, and whether it went well."""
        yield gr.update(value="Checking…", interactive=False), gr.skip(), False
        try:
            work(self.form.job(self.studio, given))
        except Exception as error:
            yield gr.update(value=name, interactive=True), w.problem(explain(error), "This run cannot start."), False
            return
        yield gr.update(value=name, interactive=name == LATER), gr.skip(), True
