"""The fields of the Quantize tab: laid out once, read as one job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr

from app import forms, sizing
from app import widgets as w
from app.forms import CHOICES, CUSTOM, METHOD, OptionKey, Parts
from app.studio import Studio
from quip_engine.calibration import SETS
from quip_engine.config import DEVICES, CalibrationConfig, JobConfig, Option, RecipeConfig
from quip_engine.methods.registry import Preset
from quip_engine.parts import OptionInfo

OWN = "own"
DEVICE_NAMES = {"auto": "Automatic", "cpu": "CPU", "cuda": "GPU"}


@dataclass
class Form:
    """Every field by name. ``inputs`` is their order in events; ``job`` turns their values into a job."""

    model: gr.State
    fields: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, Any] = field(default_factory=dict)
    options: dict[OptionKey, Any] = field(default_factory=dict)
    groups: dict[tuple[str, str], Any] = field(default_factory=dict)
    ways: dict[str, Any] = field(default_factory=dict)  # columns by how a size is asked (``sizing.SIZED``)

    @property
    def inputs(self) -> list[Any]:
        return [self.model, *self.fields.values(), *self.slots.values(), *self.options.values()]

    @property
    def recipe(self) -> list[Any]:
        """What a preset fills: its choice, the parts, their options, and which groups of options are shown."""
        chosen = [self.fields[name] for name in ("preset", "method", "bits", "rate")]
        return [*chosen, *self.slots.values(), *self.options.values(), *self.groups.values()]

    def values(self, given: tuple[Any, ...]) -> tuple[str, dict[str, Any], Parts]:
        """Model, fields by name and parts of the recipe, from values in the order of ``inputs``."""
        model, *rest = given
        fields = dict(zip(self.fields, rest, strict=False))
        rest = rest[len(self.fields) :]
        names = {METHOD: self.preset(fields).name, **dict(zip(self.slots, rest, strict=False))}
        return model, fields, Parts(names, dict(zip(self.options, rest[len(self.slots) :], strict=True)))

    def changed(self, given: tuple[Any, ...], **fields: Any) -> tuple[Any, ...]:
        """The same values, with others in some fields."""
        names = ["", *self.fields]
        return tuple(fields.get(name, v) for name, v in zip_longest(names, given, fillvalue=""))

    def job(self, studio: Studio, given: tuple[Any, ...]) -> JobConfig:
        """The job the fields describe. Raises the coded errors of bad values."""
        model, fields, parts = self.values(given)
        preset = self.preset(fields)
        budget, tuning = sizing.budget_config(fields), sizing.tuning_config(fields)
        sized = bool(budget.size or budget.fits)  # bits are not asked then
        bits = forms.bits_for(preset, None) if sized else forms.bits_asked(preset, fields["bits"], fields["rate"])
        recipe = forms.recipe_config(preset.name, bits, parts)
        calibration = forms.calibration_config(self.source(fields), fields["samples"], fields["seqlen"])
        typed = (fields["out"] or "").strip()
        out = Path(typed).expanduser().absolute() if typed else studio.folder_for(model, recipe, budget)
        seed, threads = forms.whole(fields["seed"]), studio.settings.threads
        asked = JobConfig(model, str(out), recipe, calibration, seed, fields["device"], threads)
        return replace(asked, budget=budget, tuning=tuning)

    @property
    def checked(self) -> list[Any]:
        """The fields that are checked by themselves, as they are typed."""
        return [*(self.fields[name] for name in (*forms.CHECKED, *sizing.CHECKED)), *self.options.values()]

    def marks(self, given: tuple[Any, ...]) -> list[Any]:
        """For each of ``checked``: its help, or what it allows where it has something else."""
        _, fields, parts = self.values(given)
        errors = [forms.field_error(name, fields[name]) for name in forms.CHECKED]
        errors += [sizing.error(name, fields) for name in sizing.CHECKED]
        for key, value in parts.values.items():
            chosen = parts.names[key[0]] == key[1]
            errors.append(forms.option_error(key, value) if chosen else "")
        pairs = zip(self.checked, errors, strict=True)
        return [gr.update(info=e or c.info or "", elem_classes=["wrong"] if e else []) for c, e in pairs]

    @staticmethod
    def preset(fields: dict[str, Any]) -> type[Preset]:
        """The preset that the form starts from."""
        return forms.preset_of(fields["preset"], fields["method"])

    @staticmethod
    def source(fields: dict[str, Any]) -> str:
        """The calibration source; a file by its absolute path."""
        if fields["source"] != OWN:
            return str(fields["source"])
        typed = (fields["own"] or "").strip()
        return str(Path(typed).expanduser().absolute()) if typed and Path(typed).expanduser().is_file() else typed


def recipe_fields(form: Form) -> gr.HTML:
    """Preset and the fold with every part; returns the note that explains the preset."""
    usual = RecipeConfig()
    choice = next(choice for choice, method in CHOICES.items() if method == usual.method)
    preset = forms.preset_of(choice, usual.method)
    form.fields["preset"] = w.Radio(
        [*CHOICES, CUSTOM], value=choice, label="Preset", elem_classes="segmented", elem_id="preset"
    )
    note = w.html(w.note(preset.summary))
    form.fields["method"] = w.Dropdown(forms.methods(), value=usual.method, label="Start from", visible=False)
    with gr.Accordion("Recipe: transform × codebook × rounding", open=False, elem_id="recipe"):
        shown = forms.parts_of(usual)
        with gr.Row():
            for slot, registry in forms.SLOTS.items():
                form.slots[slot] = w.Dropdown(
                    registry.names(), value=shown.names[slot], label=slot.capitalize(), min_width=120
                )
        for slot, registry in forms.REGISTRIES.items():
            for part in registry:
                _options(form, slot, part.name, shown)
    return note


def _options(form: Form, slot: str, part: str, shown: Parts) -> None:
    """The fields of one part's options, shown while the part is chosen."""
    visible = part == shown.names[slot]
    infos = [(key, info) for key, info in forms.options() if key[:2] == (slot, part)]
    if not infos:
        return
    with gr.Column(visible=visible, elem_classes="options") as form.groups[slot, part]:
        w.html(w.heading(f"{'Preset' if slot == METHOD else slot.capitalize()}: {part}", level=3))
        with gr.Row():
            for key, info in infos:
                form.options[key] = _option(info, shown.values.get(key, info.default))


def _option(info: OptionInfo, value: Option) -> Any:
    label, text = info.key.replace("_", " ").capitalize(), info.help[:1].upper() + info.help[1:].rstrip(".")
    common = {"label": label, "min_width": 150}
    if info.kind == "bool":
        return w.Checkbox(value, info=f"{text}.", **common)
    if info.choices:
        return w.Dropdown(list(info.choices), value=value, info=f"{text}.", **common)
    span = [] if info.low is None or info.high is None else [f"from {info.low:g} to {info.high:g}"]
    allowed = f" {' or '.join([*span, *info.words]).capitalize()}." if span or info.words else ""
    if info.words:
        return w.Line(value=str(value), info=f"{text}.{allowed}", **common)
    if info.kind in ("int", "float"):
        return w.Number(value, info=f"{text}.{allowed}", **common)
    return w.Line(value=value, info=f"{text}.", **common)


def calibration_fields(form: Form) -> None:
    usual = CalibrationConfig()
    named = [(f"{name}: {text}", name) for name, text in SETS.items() if name != usual.source]
    choices = [("Bundled sample", usual.source), *named, ("Own file or hub data set…", OWN)]
    with gr.Row():
        form.fields["source"] = w.Dropdown(choices, value=usual.source, label="Text", min_width=160, scale=2)
        form.fields["samples"] = w.Number(usual.samples, label="Samples", min_width=90, elem_id="samples")
        form.fields["seqlen"] = w.Number(usual.seqlen, label="Tokens each", min_width=90, elem_id="seqlen")
    form.fields["own"] = w.Line(
        label="File or data set",
        placeholder="path of a .txt, .jsonl or .parquet file, or owner/name of a data set",
        visible=False,
        elem_id="own-text",
    )


def run_fields(form: Form) -> None:
    devices = [(DEVICE_NAMES[d], d) for d in DEVICES]
    with gr.Row():
        form.fields["seed"] = w.Number(0, label="Seed", info="Same seed, same bytes.", min_width=120)
        form.fields["device"] = w.Dropdown(
            devices, value="auto", label="Device", info="Automatic: the GPU where there is one.", min_width=120
        )
    form.fields["out"] = w.Line(label="Output folder", info="Empty: a new folder in the data directory.", elem_id="out")
