"""Presets: published methods as named combinations of the three parts, and the check of free combinations.

``resolve`` is the one door from names (command line, form, stored job) to working parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from quip_engine.codebooks import Codebook, codebooks
from quip_engine.config import Option, RecipeConfig, check_number
from quip_engine.errors import QuipError, fail
from quip_engine.parts import OptionInfo, Part, Registry, option
from quip_engine.rounding import Rounder, rounders
from quip_engine.transforms import Transform, transforms

HESSIANS = ("plain", "weighted", "two-sided")
TARGETS = ("original", "corrected")
INPUTS = ("sequential", "original")
OF_MODELS = ("hessian", "targets", "mixing", "inputs")  # options that say nothing about a single layer
MANY = 8  # bitrates are listed up to so many


@dataclass(frozen=True)
class Recipe:
    """Three parts that work together.

    ``rivals`` are recipes, this one among them, of which each layer gets the one that loses least on it. ``hessian``:
    whether tokens and outputs count alike or with what their errors cost (``sensitivity``), and whether it is known,
    too, what errors of different outputs do together (``importance``). Where errors are measured, ``spread`` tells how
    far the bits of layers follow what they are worth, from 0 (all alike) to 1. ``targets``: what layers are rounded to,
    their weights or those that make good what earlier layers did (``correction``). ``mixing``: share of the plain
    Hessian in a weighted one. ``inputs``: whose inputs Hessians are of, those behind the quantized blocks or the
    original's.
    """

    transform: Transform
    codebook: Codebook
    rounding: Rounder
    rivals: tuple[Recipe, ...] = ()
    hessian: str = "plain"
    spread: float = 0.0
    targets: str = "original"
    mixing: float = 0.0
    inputs: str = "sequential"

    @property
    def weighted(self) -> bool:
        """Whether it is measured what errors cost."""
        return self.hessian != "plain"

    @property
    def two_sided(self) -> bool:
        """Whether it is measured what errors of different outputs do together."""
        return self.hessian == "two-sided"

    def at(self, bits: float) -> Recipe:
        """The same with a codebook of so many bits, one of those it offers."""
        codebook = replace(self.codebook, bits=int(bits) if bits == int(bits) else bits)  # type: ignore[call-arg]
        return replace(self, codebook=codebook, rivals=tuple(rival.at(bits) for rival in self.rivals))

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "transform": self.transform.to_json(),
            "codebook": self.codebook.to_json(),
            "rounding": self.rounding.to_json(),
            "hessian": self.hessian,
            "spread": self.spread,
            "targets": self.targets,
            "mixing": self.mixing,
            "inputs": self.inputs,
        }
        return record | ({"rivals": [rival.to_json() for rival in self.rivals]} if self.rivals else {})

    def __str__(self) -> str:
        return f"{self.transform.name} × {self.codebook.name} × {self.rounding.name}"


def hessian_option(usual: str) -> Any:
    """The field of a preset that says which Hessians it takes if nothing is asked."""
    help = "tokens and outputs count alike, or with what their errors cost, or outputs mend each other's errors, too"
    return option(usual, help, choices=HESSIANS)


def targets_option(usual: str) -> Any:
    """The field of a preset that says what layers are rounded to if nothing is asked."""
    help = "what layers are rounded to: the original weights, or those that make good what layers before them lost"
    return option(usual, help, choices=TARGETS)


def spread_option() -> Any:
    """The field of a preset that gives layers bits by what they are worth."""
    return option(0.75, "how far the bits of layers follow what they are worth", low=0, high=1)


@dataclass(frozen=True)
class Preset(Part, ABC):
    """A published method: where it comes from, and its recipe at each bitrate it knows.

    Its options are choices between parts; what is a parameter of one part is an option there.
    """

    hessian: str = hessian_option("plain")
    targets: str = targets_option("original")
    mixing: float = option(0.0, "share of the plain Hessian in a weighted one", low=0, high=1)
    inputs: str = option(
        "sequential", "what Hessians are of: inputs behind quantized blocks, or the original's", choices=INPUTS
    )

    paper: ClassVar[str]
    published: ClassVar[str]  # year and month
    summary: ClassVar[str]  # for the person who chooses
    bits: ClassVar[tuple[float, ...]]

    @abstractmethod
    def recipe(self, bits: float) -> Recipe:
        """The parts for so many bits per weight, one of ``bits``."""


presets: Registry[Preset] = Registry("method")


def presets_by_age() -> list[type[Preset]]:
    """Every preset, the oldest method first."""
    return sorted(presets, key=lambda preset: preset.published)


def resolve(config: RecipeConfig) -> Recipe:
    """Parts of a recipe by names, with options set; refuses what does not exist or does not fit.

    With a codebook of its own choice a recipe has the bits of that codebook, else those of the preset.
    """
    chosen = presets.get(config.method)
    known = config.bits in chosen.bits
    if not known and config.codebook is None:
        fail("BAD_SETTING", field=f"bits for {chosen.name}", value=repr(config.bits), allowed=listed_bits(chosen.bits))
    choices = {key: value for key, value in config.options.items() if key in _options(chosen)}
    (preset,) = with_options([chosen()], choices)

    def parts() -> tuple[Recipe, dict[Recipe, None]]:
        """The preset's own, and what becomes of its rivals."""
        own = preset.recipe(config.bits if known else chosen.bits[0])  # type: ignore[attr-defined]
        return own, dict.fromkeys(_replaced(recipe, config, known, set(choices)) for recipe in own.rivals or (own,))

    preset = _shaped(preset, parts()[1], asked="hessian" in choices)  # type: ignore[arg-type]
    own, made = parts()
    first = next(iter(made))
    first = replace(first, rivals=tuple(made)) if len(made) > 1 else first
    spread = _spread(own, first, preset.hessian, choices)
    _check_choices(preset, choices)
    of_models = {name: getattr(preset, name) for name in OF_MODELS}
    return replace(first, spread=spread, **of_models)


def alone(config: RecipeConfig) -> RecipeConfig:
    """The recipe for a single layer with a Hessian from elsewhere, where no gradient tells what errors cost."""
    if config.options.get("hessian", "plain") != "plain":
        fail("BAD_RECIPE", reason="A single layer has no gradients to weigh its errors with", remedy="hessian=plain")
    if config.options.get("targets", "original") != "original":
        fail("BAD_RECIPE", reason="A single layer has none before it to correct", remedy="targets=original")
    if config.options.get("inputs", "sequential") != "sequential":
        fail("BAD_RECIPE", reason="A single layer has the Hessian that it is given", remedy="inputs=sequential")
    return replace(config, options={**config.options, "hessian": "plain", "targets": "original"})


def _check_choices(preset: Preset, chosen: dict[str, Option]) -> None:
    """Refuse options that would change nothing or contradict each other."""
    if preset.mixing and preset.hessian == "plain":
        fail("BAD_RECIPE", reason="A plain Hessian has nothing to be mixed with", remedy="hessian=weighted")
    if preset.inputs == "original" and preset.targets == "corrected":
        reason = "Targets are corrected for what quantized layers give, so inputs=original does not go with them"
        remedy = "inputs=original and targets=original" if "inputs" in chosen else "inputs=sequential"
        fail("BAD_RECIPE", reason=reason, remedy=remedy)


def _shaped(preset: Preset, recipes: Iterable[Recipe], *, asked: bool) -> Preset:
    """The preset, without feedback between outputs where parts give or keep none; refused where it was ``asked``."""
    for recipe in recipes if preset.hessian == "two-sided" else ():
        if recipe.codebook.shapes and not recipe.rounding.revisits:
            continue
        if not asked:
            return replace(preset, hessian="weighted")
        reason = f"{recipe.codebook.name} rounds outputs without feedback between them"
        remedy = "hessian=weighted, or codebook column-trellis"
        if recipe.codebook.shapes:
            reason = f"Passes of {recipe.rounding.name} over all columns undo feedback between outputs"
            remedy = "hessian=weighted, or ldlq with sweeps=0"
        fail("BAD_RECIPE", reason=reason, remedy=remedy)
    return preset


def _spread(own: Recipe, made: Recipe, hessian: str, chosen: dict[str, Option]) -> float:
    """How far the layers' bits spread: as the preset says, where it is known what they are worth."""
    possible = hessian != "plain" and type(made.codebook) is type(own.codebook)
    if not possible and "spread" in chosen and own.spread:
        reason = "Bits spread over the layers only with hessian=weighted or two-sided and the codebook of the method"
        fail("BAD_RECIPE", reason=reason, remedy="spread=0")
    return own.spread if possible else 0.0


def _replaced(own: Recipe, config: RecipeConfig, known: bool, used: set[str]) -> Recipe:
    """The recipe of a preset with the parts and options of ``config``, but for the options ``used`` by the preset."""
    keep = config.codebook is None or (known and config.codebook == own.codebook.name)
    parts = (
        own.transform if config.transform in (None, own.transform.name) else transforms.get(str(config.transform))(),
        own.codebook if keep else make_codebook(str(config.codebook), config.bits),
        own.rounding if config.rounding in (None, own.rounding.name) else rounders.get(str(config.rounding))(),
    )
    options = {key: value for key, value in config.options.items() if key not in used}
    recipe = Recipe(*with_options(parts, options))  # type: ignore[arg-type]
    recipe.rounding.check(recipe.codebook)
    return recipe


def make_codebook(name: str, bits: float) -> Codebook:
    """A codebook by name in its form for so many bits per weight."""
    check_number("bits", bits, 1, 8)
    kind = codebooks.get(name)
    offered = offered_bits(kind)
    if bits not in offered:
        closest = min(offered, key=lambda b: abs(b - bits))
        others = [c.name for c in codebooks if bits in offered_bits(c)]
        remedy = f"{name} at {closest:g} bits" + (f", or {' or '.join(others)} at {bits:g} bits" if others else "")
        fail("BAD_RECIPE", reason=f"{name} has no {bits:g}-bit form", remedy=remedy)
    info = _options(kind).get("bits")
    return kind() if info is None else kind(bits=int(bits) if info.kind == "int" else bits)  # type: ignore[call-arg]


def fits(rounding: type[Rounder], codebook: type[Codebook]) -> bool:
    """Whether a rounder works with a codebook."""
    try:
        rounding().check(codebook())
    except QuipError:
        return False
    return True


def offered_bits(kind: type[Codebook]) -> tuple[float, ...]:
    """The bits per weight a codebook has a form for."""
    info = _options(kind).get("bits")
    if info is None:
        return (kind().code_bits,)
    return kind.rates or info.choices or tuple(range(int(info.low or 1), int(info.high or 1) + 1))  # type: ignore[return-value]


def listed_bits(bits: Sequence[float]) -> str:
    """Bitrates in words: a list, or where there are many, their range and step."""
    if len(bits) <= MANY:
        return ", ".join(f"{b:g}" for b in bits)
    return f"{bits[0]:g} to {bits[-1]:g} in steps of {bits[1] - bits[0]:.2g}"


def with_options(parts: Sequence[Part], options: dict[str, Option]) -> list[Part]:
    """The parts with options set by name, from text or from JSON. ``bits`` is none: it has a place of its own."""
    changed = list(parts)
    known = {key: (i, info) for i, part in enumerate(parts) for key, info in _options(type(part)).items()}
    known.pop("bits", None)
    for key, value in options.items():
        if key not in known:
            fail("BAD_SETTING", field="option", value=repr(key), allowed=", ".join(sorted(known)) or "none")
        i, info = known[key]
        changed[i] = replace(changed[i], **{key: _cast(info, value)})
    return changed


def _options(kind: type[Part]) -> dict[str, OptionInfo]:
    return {info.key: info for info in kind.options()}


def _cast(info: OptionInfo, value: Option) -> Option:
    """The value of an option from text (``--option KEY=VALUE``) or from JSON, in the type of its default."""
    text = str(value).strip()
    if text in info.words:
        return text
    try:
        if info.kind == "bool":
            return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[text.lower()]
        if info.kind == "int":
            return int(text)
        if info.kind == "float":
            return float(text)
    except (KeyError, ValueError):
        allowed = " or ".join([f"a value of type {info.kind}", *info.words])
        fail("BAD_SETTING", field=f"option {info.key}", value=repr(value), allowed=allowed)
    return text
