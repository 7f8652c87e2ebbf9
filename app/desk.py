"""What the Quantize tab answers to its fields.

A preset fills the fold, a change in the fold makes it custom, a job fills all of it, and every change has its price.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import forms, outlook, sizing
from app import widgets as w
from app.drafts import Draft
from app.fields import OWN, Form
from app.fmt import count
from app.forms import CHOICES, CUSTOM, METHOD
from app.price import price, run_costs
from app.sizing import BITS, FITS, SIZE
from app.state import explain
from app.studio import Studio
from app.tabs.models import facts_line
from quip_engine.calibration import SETS, preview
from quip_engine.config import JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.estimate import Rates, measured
from quip_engine.footprint import memory_with
from quip_engine.methods.mixing import resolve_mixed
from quip_engine.methods.registry import Recipe
from quip_engine.recipe_file import read_recipe, recipe_text
from quip_engine.targets import Target, settle

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
        last = ("source", "own", "samples", "seqlen", "seed", "device", "out", *sizing.values(JobConfig("", "")))
        others = [self.form.fields[name] for name in last]
        return [self.form.model, self.note, *self.form.recipe, *others, *self.form.ways.values()]

    def filled(self, job: JobConfig) -> list[Any]:
        """``everything`` as a job has it. Raises the coded errors of a recipe that this version cannot make."""
        recipe, text = job.recipe, job.calibration
        resolve_mixed(recipe)
        named = next((choice for choice, method in CHOICES.items() if method == recipe.method), CUSTOM)
        preset = named if recipe == RecipeConfig(recipe.method, recipe.bits) else CUSTOM
        note, _, *parts = self.refilled({"preset": preset, "method": recipe.method}, recipe)
        own = text.source not in SETS
        source = [OWN, gr.update(value=text.source, visible=True)] if own else [text.source, gr.update(visible=False)]
        others = [text.samples, text.seqlen, job.seed, job.device, job.out]
        sizes = sizing.values(job)
        return [job.model, note, preset, *parts, *source, *others, *sizes.values(), *self.ways(sizes["sized"])]

    def ways(self, asked: str) -> list[Any]:
        """Of the ways to ask for a size, the one is shown."""
        return [gr.update(visible=way == asked) for way in self.form.ways]

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
        preset = self.form.preset(fields)
        return self.refilled(fields, RecipeConfig(preset.name, forms.bits_for(preset, fields["rate"])))

    def resized(self, *given: Any) -> list[Any]:
        """After another way to ask for the size: its field, with what the recipe would take as it is now."""
        _, fields, _ = self.form.values(given)
        asked, filled = fields["sized"], {name: gr.skip() for name in (SIZE, FITS)}
        try:
            if asked in filled and not (fields[asked] or "").strip():
                filled[asked] = self._usual_size(asked, given)
        except Exception:  # the price says so
            pass
        return [*self.ways(asked), *filled.values()]

    def _usual_size(self, asked: str, given: tuple[Any, ...]) -> str:
        """What the files, or answering, would take with the bits that are asked for."""
        job = self.form.job(self.studio, self.form.changed(given, sized=BITS))
        target, facts = self.settled(job), self.studio.facts(job.model)
        files = target.weight_bytes or target.prices.total(dict.fromkeys(target.prices.layers, target.bits))
        needed = memory_with(Path(facts.path), files, job.budget.context) if asked == FITS else files
        step = 10 ** max(len(str(needed)) - 3, 0)
        return sizing.written(-(-needed // step) * step)

    def rerated(self, source: str, *given: Any) -> list[Any]:
        """After another bitrate, from the field ``source``: the fold shows the preset's recipe for it."""
        _, fields, parts = self.form.values(given)
        preset = self.form.preset(fields)
        try:
            own = forms.preset_options(preset.name, parts)
            asked = forms.between(preset, fields["rate"]) if fields[source] == forms.OTHER else fields[source]
            return self.refilled(fields, RecipeConfig(preset.name, asked, options=own), source)
        except QuipError:  # the price says so
            return [gr.skip()] * (1 + len(self.form.recipe))

    def refilled(self, fields: dict[str, Any], asked: RecipeConfig, source: str = "") -> list[Any]:
        """The note and the form of a recipe; ``source``: the field of bits that somebody is typing into."""
        preset = self.form.preset(fields)
        between = forms.is_between(preset, asked.bits)
        bits = asked.bits if between else forms.bits_for(preset, asked.bits)
        parts = forms.parts_of(replace(asked, bits=bits))
        dense = forms.is_dense(preset)
        slider = dense or between or source == "rate"
        buttons = {} if dense else {"choices": forms.bits_choices(preset), "value": forms.OTHER if slider else bits}
        moved = {} if source == "rate" else {"value": bits}  # somebody may still be typing
        return [
            w.note(preset.summary),
            gr.skip(),
            gr.update(value=preset.name, visible=fields["preset"] == CUSTOM),
            gr.update(**buttons, visible=not dense),
            gr.update(**forms.rate_range(preset), **moved, visible=slider),
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

    def measure(self, *given: Any) -> Iterator[tuple[Any, Any]]:
        """Refine the time with one of the model's layers: button, and what is wrong with the price."""
        try:
            job = self.form.job(self.studio, given)
            facts, recipe = self.studio.facts(job.model), self.settled(job).recipe
            yield gr.update(value="Measuring one layer…", interactive=False), gr.skip()
            self.rates[job.model, recipe, job.device] = measured(facts, recipe, job.device)
        except Exception as error:
            yield gr.update(value=MEASURE, interactive=True), w.problem(explain(error))
            return
        yield gr.update(value=MEASURE, interactive=True), gr.skip()

    def settled(self, job: JobConfig) -> Target:
        """What a job asks for, settled. Raises ``BAD_TARGET`` and what is wrong with model, recipe and budget."""
        return settle(job.recipe, job.budget, self.studio.facts(job.model))

    def reprice(self, *given: Any) -> list[Any]:
        """Estimates and command of the job as it is now, or what is wrong with it; then the outlook."""
        try:
            job = self.form.job(self.studio, given)
            facts, target = self.studio.facts(job.model), self.settled(job)
            rates = self.rates.get((job.model, target.recipe, job.device))
            costs = run_costs(facts, target, job, rates)
            self.draft.save(job, (self.form.values(given)[1]["out"] or "").strip())
            shown = outlook.shown(self.studio, facts, target, job)
        except Exception as error:
            return [w.problem(explain(error)), w.Html(""), *[gr.skip()] * len(outlook.SHOWN)]
        command = w.Html(f"<pre tabindex=0>{w.tag('code', forms.command(job))}</pre>")
        return [price(facts, target, job, costs, rates is not None), command, *shown]

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
