"""Fields <-> job: the form of the Quantize tab as plain values, checked on the server.

Parts and options are not listed here: transforms, codebooks, rounders and presets register themselves with their
metadata, and the form is made from that. A preset is a part, too: its options decide which other parts it is made of.
What a field shows is the resolved recipe; what a job keeps is only what differs from its preset.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app import sizing
from app.sizing import whole
from quip_engine.codebooks import codebooks
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, Option, RecipeConfig
from quip_engine.errors import QuipError, fail
from quip_engine.methods.mixing import resolve_mixed
from quip_engine.methods.registry import MANY, Preset, listed_bits, presets, presets_by_age
from quip_engine.parts import OptionInfo, Part
from quip_engine.rounding import rounders
from quip_engine.transforms import transforms

SLOTS: dict[str, Any] = {"transform": transforms, "codebook": codebooks, "rounding": rounders}
METHOD = "method"  # the slot of the preset
REGISTRIES: dict[str, Any] = {METHOD: presets, **SLOTS}
CHOICES = {
    "Fast": "quip#",
    "Balanced": "waterfill",
    "Thorough": "best",
    "Paper-exact": "quip",
}  # or any, by Custom
CUSTOM = "Custom"
OptionKey = tuple[str, str, str]  # slot, part, option
NO_BUDGET = BudgetConfig()
SAME = 1e-6  # bits per weight: what a slider's arithmetic is off
STEP = 0.05  # bits per weight: of a slider
OTHER = 0  # in place of a bitrate: one between those that the preset has, as the mean of layers


def options() -> Iterator[tuple[OptionKey, OptionInfo]]:
    """Every option of every part, presets first. A codebook's ``bits`` is left out: the form asks for it above."""
    for slot, registry in REGISTRIES.items():
        for part in registry:
            yield from (((slot, part.name, o.key), o) for o in part.options() if o.key != "bits")


def methods() -> list[tuple[str, str]]:
    """(label, name) of every preset."""
    return [(f"{p.name}  ({p.paper})" if p.paper else p.name, p.name) for p in presets_by_age()]


def preset_of(choice: str, method: str) -> type[Preset]:
    """The preset behind a choice; with ``Custom`` the one that was picked to start from."""
    return presets.get(CHOICES.get(choice, method))


def is_dense(preset: type[Preset]) -> bool:
    """Too many bitrates for a button each: the form has a slider for them."""
    return len(preset.bits) > MANY


def bits_choices(preset: type[Preset]) -> list[tuple[str, float]]:
    """A button for each bitrate, and one for what lies between."""
    buttons = [(f"{bits:g} {'bit' if bits == 1 else 'bits'}", bits) for bits in preset.bits]
    return [*buttons, ("Between", OTHER)] if len(buttons) > 1 else buttons


def rate_range(preset: type[Preset]) -> dict[str, float]:
    """The ends and the step of the slider for a preset's bitrates, or for what lies between them."""
    low, high = preset.bits[0], preset.bits[-1]
    step = round((high - low) / (len(preset.bits) - 1), 6) if is_dense(preset) else STEP
    return {"minimum": low, "maximum": high, "step": step}


def bits_for(preset: type[Preset], bits: float | None) -> float:
    """The asked bitrate, or the nearest one the preset has; an empty field asks for the usual."""
    asked = RecipeConfig().bits if bits is None else bits
    return min(preset.bits, key=lambda b: (abs(b - asked), b))


def between(preset: type[Preset], bits: float | None) -> float:
    """A mean between two bitrates of a preset: ``bits``, or half way to the next where it has these."""
    if bits is not None and is_between(preset, bits):
        return bits
    place = preset.bits.index(bits_for(preset, bits))
    low = min(place, len(preset.bits) - 2)
    return (preset.bits[low] + preset.bits[low + 1]) / 2


def is_between(preset: type[Preset], bits: float | None) -> bool:
    """Whether layers have to differ for the mean to be this: it is within the bitrates of a preset and none of them."""
    return bits is not None and bits not in preset.bits and preset.bits[0] < bits < preset.bits[-1]


def bits_asked(preset: type[Preset], button: float | None, slider: float | None) -> float:
    """The bitrate of the form, exactly as the preset names it; one that it has not comes back as it is."""
    asked = slider if is_dense(preset) or button == OTHER else button
    if asked is None:
        fail("BAD_SETTING", field="bits", value="nothing", allowed=listed_bits(preset.bits))
    near = bits_for(preset, asked)
    return near if abs(near - asked) < SAME else asked


@dataclass(frozen=True)
class Parts:
    """A recipe as the form shows it: the names of its preset and of each part, and the values of their options."""

    names: dict[str, str]
    values: dict[OptionKey, Option]


def parts_of(config: RecipeConfig) -> Parts:
    recipe = resolve_mixed(config)
    parts: dict[str, Part] = {"transform": recipe.transform, "codebook": recipe.codebook, "rounding": recipe.rounding}
    names = {METHOD: config.method, **{slot: part.name for slot, part in parts.items()}}

    def value(slot: str, info: OptionInfo) -> Option:
        return config.options.get(info.key, info.default) if slot == METHOD else getattr(parts[slot], info.key)

    return Parts(names, {key: value(key[0], info) for key, info in options() if names[key[0]] == key[1]})


def preset_options(method: str, parts: Parts) -> dict[str, Option]:
    """The options of the preset itself that differ from their defaults. Raises ``BAD_SETTING`` for an empty one."""
    return {
        info.key: value
        for key, info in options()
        if key[:2] == (METHOD, method) and (value := _given(key, info, parts, info.default)) != info.default
    }


def claimed(method: str) -> set[str]:
    """The names of a preset's own options: options of parts by these names are the preset's to choose."""
    return {info.key for info in presets.get(method).options()}


def recipe_config(method: str, bits: float, parts: Parts) -> RecipeConfig:
    """The recipe of a form: its preset, and only what differs from it. Raises ``BAD_SETTING`` and ``BAD_RECIPE``."""
    given = preset_options(method, parts)
    usual = parts_of(RecipeConfig(method, bits, options=given)).names
    changed = {slot: name for slot, name in parts.names.items() if slot in SLOTS and name != usual[slot]}
    plain = parts_of(RecipeConfig(method, bits, options=given, **changed))
    for key, info in options():
        if key[0] in SLOTS and key in plain.values and info.key not in claimed(method):
            value = _given(key, info, parts, plain.values[key])
            if value != plain.values[key]:
                given[info.key] = value
    config = RecipeConfig(method, bits, options=given, **changed)
    resolve_mixed(config)
    return config


def _given(key: OptionKey, info: OptionInfo, parts: Parts, usual: Option) -> Option:
    """What an option's field says, ``usual`` where the form has no such field yet."""
    value = typed(info, parts.values.get(key, usual))
    if value is None or value == "":
        fail("BAD_SETTING", field=f"{key[1]} {key[2]}", value="nothing", allowed="a value")
    return value


def typed(info: OptionInfo, value: Any) -> Any:
    """The value of a field: where a word may stand for a number, fields are text; text that is neither is refused."""
    if info.words and isinstance(value, str):
        text = value.strip()
        try:
            value = text if text in info.words else float(text)
        except ValueError:
            return text
    return whole(value) if info.kind == "int" else value


def calibration_config(source: str | None, samples: Any, seqlen: Any) -> CalibrationConfig:
    """Raises ``CALIB_EMPTY`` and ``BAD_SETTING``."""
    return CalibrationConfig((source or "").strip(), whole(samples), whole(seqlen))


CHECKED = ("samples", "seqlen", "seed")


def field_error(name: str, value: Any) -> str:
    """What a number field allows when it has something else; empty when it is fine."""
    try:
        if name == "seed":
            JobConfig("", "", seed=whole(value))
        else:
            CalibrationConfig(**{name: whole(value)})
    except QuipError as error:
        return error.hint
    return ""


def option_error(key: OptionKey, value: Any) -> str:
    """The same for an option of a part."""
    slot, part, name = key
    info = next(info for other, info in options() if other == key)
    try:
        REGISTRIES[slot].get(part)(**{name: typed(info, value)})
    except QuipError as error:
        return error.hint
    return ""


def stem(recipe: RecipeConfig, budget: BudgetConfig = NO_BUDGET) -> str:
    """A recipe in the name of a file: ``quip-sharp-2bit``; where a size is asked, ``quip-sharp-1.9mb``."""
    size = sizing.written(budget.size or budget.fits).replace(" ", "")
    asked = size if budget.size or budget.fits else f"{recipe.bits:g}bit"
    words = f"{recipe.method.replace('#', '-sharp')} {asked}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")


def command(job: JobConfig) -> str:
    """The command line that does the same. Defaults are left out."""
    usual, recipe, text = JobConfig(job.model, job.out), job.recipe, job.calibration
    words = ["python", "-m", "quip_engine", "quantize", job.model, "--out", job.out]
    words += ["--method", recipe.method]
    words += [] if job.budget.size or job.budget.fits else ["--bits", f"{recipe.bits:g}"]
    flags: list[tuple[str, object, object]] = [(slot, getattr(recipe, slot), None) for slot in SLOTS]
    flags += [("option", f"{key}={_spelled(value)}", None) for key, value in recipe.options.items()]
    flags += [
        ("calibration", text.source, usual.calibration.source),
        ("samples", text.samples, usual.calibration.samples),
        ("seqlen", text.seqlen, usual.calibration.seqlen),
        ("seed", job.seed, usual.seed),
        ("device", job.device, usual.device),
    ]
    words += [word for name, value, default in flags if value != default for word in (f"--{name}", str(value))]
    return shlex.join(words + sizing.words(job))


def _spelled(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
