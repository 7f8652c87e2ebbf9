"""What a person asks for, as plain values: a recipe by names, a calibration text, a job, a text.

No torch here: forms, the command line and stored runs use these without loading the engine. ``methods.resolve`` turns
a ``RecipeConfig`` into working parts and checks it.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from quip_engine.errors import fail

T = TypeVar("T")
Option = str | int | float | bool

DEVICES = ("auto", "cpu", "cuda")
RULES = ("usual", "sensitivity", "trace", "uniform", "manual")  # who gets the bits (``spread``)
EMBEDDINGS = (0, 4, 6, 8)  # bits of packed embeddings and heads; 0: they stay as they are
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
ACTIVATIONS = ("float", "int8")  # what packed layers multiply single tokens as
STAGES = ("progressive", "block", "end-to-end", "pv")  # of tuning, in their order
RELAXING = ("never", "auto", "always")  # signs into real numbers


@dataclass(frozen=True)
class RecipeConfig:
    """A preset, and what replaces its parts. ``options`` are parameters of the parts (listed by ``methods``)."""

    method: str = "quip#"
    bits: float = 2
    transform: str | None = None
    codebook: str | None = None
    rounding: str | None = None
    options: dict[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationConfig:
    """``samples`` windows of ``seqlen`` tokens, drawn with the job's seed from ``source``.

    ``source``: ``bundled``, a named set (``calibration.SETS``), a hub data set id, or a .txt/.jsonl/.parquet file.
    """

    source: str = "bundled"
    samples: int = 128
    seqlen: int = 256

    def __post_init__(self) -> None:
        check_number("samples", self.samples, 1, 1_000_000, whole=True)
        check_number("seqlen", self.seqlen, 8, 1_048_576, whole=True)
        if not isinstance(self.source, str) or not self.source.strip():
            fail("CALIB_EMPTY", source="The calibration source")


@dataclass(frozen=True)
class TuningConfig:
    """What is trained beside the choice of codes, to keep what the original says; by default nothing.

    ``samples`` windows of the calibration source are drawn for it, as long as those of calibration, and the last tenth
    of them is held out to judge by. A step sees ``batch`` windows; ``steps`` 0: as many as see every window once.
    ``rate``: how far a step moves a number, relative to the rms of its tensor. ``patience``: judgements (eight in a run
    and more) without a better model that end it. ``labels``: share of the text's own next token in what a step of
    stages other than ``block`` aims at, beside what the original says of it. ``head``: embeddings and head are trained,
    too. ``relax_signs``: signs of Hadamard transforms become real numbers, for more bits: ``auto`` where those are less
    than 1 % of a layer's.
    """

    stages: tuple[str, ...] = ()
    steps: int = 0
    samples: int = 1024
    batch: int = 16
    rate: float = 1e-2
    patience: int = 3
    labels: float = 0.0
    head: bool = True
    relax_signs: str = "auto"

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                fail("BAD_SETTING", field="tuning", value=repr(stage), allowed=", ".join(STAGES))
        object.__setattr__(self, "stages", tuple(stage for stage in STAGES if stage in self.stages))  # in their order
        check_number("tuning steps", self.steps, 0, 10_000_000, whole=True)
        check_number("tuning samples", self.samples, 8, 10_000_000, whole=True)
        check_number("tuning batch", self.batch, 1, 65_536, whole=True)
        check_number("tuning rate", self.rate, 1e-8, 1)
        check_number("tuning patience", self.patience, 1, 1_000_000, whole=True)
        check_number("tuning labels", self.labels, 0, 1)
        if self.relax_signs not in RELAXING:
            fail("BAD_SETTING", field="tuning signs", value=repr(self.relax_signs), allowed=", ".join(RELAXING))

    @property
    def soft(self) -> tuple[str, ...]:
        """The stages that train on what the original predicts: all but ``block``."""
        return tuple(stage for stage in self.stages if stage != "block")


@dataclass(frozen=True)
class BudgetConfig:
    """What the whole model may take, and how that is shared out.

    ``size``: bytes of all weight files; ``fits``: bytes of memory that answering takes, with ``context`` tokens. Where
    neither is asked, the bits of the recipe are the mean of all layers. ``rule``: one of RULES; ``layers``: bits by
    name or pattern of layers that no rule touches. ``embeddings``: bits of embeddings and head, one of EMBEDDINGS.
    """

    size: int = 0
    fits: int = 0
    context: int = 4096
    rule: str = "usual"
    layers: dict[str, float] = field(default_factory=dict)
    embeddings: int = 0

    def __post_init__(self) -> None:
        check_number("size", self.size, 0, 2**60, whole=True)
        check_number("fits", self.fits, 0, 2**60, whole=True)
        check_number("context", self.context, 1, 2**31, whole=True)
        if self.size and self.fits:
            fail("BAD_SETTING", field="fits", value=self.fits, allowed="either a size or a memory to fit, not both")
        for name, value, allowed in (("rule", self.rule, RULES), ("embeddings", self.embeddings, EMBEDDINGS)):
            if value not in allowed:
                fail("BAD_SETTING", field=name, value=repr(value), allowed=", ".join(map(str, allowed)))
        if not isinstance(self.layers, dict):
            fail("BAD_SETTING", field="layers", value=repr(self.layers), allowed="bits by name of layers")
        for name, bits in self.layers.items():
            check_number(f"bits of {name}", bits, 0.1, 16)


@dataclass(frozen=True)
class JobConfig:
    """One run: which model, how, from which text, where to. Fully determines the bytes it writes on one machine.

    ``fallbacks``: the largest share of layers that may be rounded in another way than asked before the run fails.
    ``force``: start although disk or memory seem too small.
    """

    model: str
    out: str
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None  # None: all cores
    fallbacks: float = 0.05
    force: bool = False
    tuning: TuningConfig = field(default_factory=TuningConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, 2**31 - 1, whole=True)
        check_number("fallbacks", self.fallbacks, 0, 1)
        _check_machine(self.device, self.threads)

    @property
    def title(self) -> str:
        """Method and size in short: ``quip# 2-bit``, ``best 2.9 MB``."""
        size = self.budget.size or self.budget.fits
        if not size:
            return f"{self.recipe.method} {self.recipe.bits:g}-bit"
        return f"{self.recipe.method} {f'{size / 1e9:.4g} GB' if size >= 1e9 else f'{size / 1e6:.4g} MB'}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> JobConfig:
        nested: dict[str, type] = {
            "recipe": RecipeConfig,
            "calibration": CalibrationConfig,
            "tuning": TuningConfig,
            "budget": BudgetConfig,
        }
        values = {k: _strict(nested[k], v) if k in nested else v for k, v in record.items()}
        return _strict(cls, values)


@dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation: a model, the original it is compared with (empty: none), a text and how it is cut.

    ``text``: ``bundled`` or a file; ``windows`` None: all that the text fills. ``layers``: also each layer alone.
    ``tasks``: of lm_eval, with at most ``questions`` each.
    """

    model: str
    against: str = ""
    text: str = "bundled"
    seqlen: int = 256
    windows: int | None = None
    layers: bool = True
    tasks: tuple[str, ...] = ()
    questions: int = 100
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            fail("CALIB_EMPTY", source="The evaluation text")
        check_number("seqlen", self.seqlen, 2, 1_048_576, whole=True)
        if self.windows is not None:
            check_number("windows", self.windows, 1, 10**9, whole=True)
        check_number("questions", self.questions, 1, 10**6, whole=True)
        _check_machine(self.device, self.threads)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EvaluationConfig:
        return _strict(cls, {**record, "tasks": tuple(record.get("tasks", ()))})


@dataclass(frozen=True)
class GenerationSettings:
    """How the next token is chosen. ``temperature`` 0 takes the likeliest; ``top_k`` 0 and ``top_p`` 1 keep all."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("max_tokens", self.max_tokens, 1, 1_000_000, whole=True)
        check_number("temperature", self.temperature, 0, 100)
        check_number("top_p", self.top_p, 1e-6, 1)
        check_number("top_k", self.top_k, 0, 10_000_000, whole=True)
        check_number("seed", self.seed, 0, 2**63 - 1, whole=True)


def read_bytes(name: str, text: str) -> int:
    """Bytes of ``1.9 MB`` or ``8 GiB``; ``name``: of the setting, for ``BAD_SETTING``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*", str(text))
    if not found or found[2].upper() not in UNITS or not (size := int(float(found[1]) * UNITS[found[2].upper()])):
        fail("BAD_SETTING", field=name, value=repr(text), allowed="a size as 1.9 MB, 8 GB or 8 GiB")
    return size


def check_number(
    name: str, value: object, low: float, high: float, *, whole: bool = False, words: tuple[str, ...] = ()
) -> None:
    """Refuse what is not a finite number (a whole one if asked) between ``low`` and ``high``, nor one of ``words``."""
    if isinstance(value, str) and value in words:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (whole and value != int(value)):  # type: ignore[operator,call-overload]
        kind = "a whole number" if whole else "a number"
        allowed = " or ".join([f"{kind} from {low:.15g} to {high:.15g}", *words])
        fail("BAD_SETTING", field=name, value=repr(value), allowed=allowed)


def _check_machine(device: str, threads: int | None) -> None:
    if device not in DEVICES:
        fail("BAD_SETTING", field="device", value=device, allowed=", ".join(DEVICES))
    if threads is not None:
        check_number("threads", threads, 1, 1024, whole=True)


def _strict(kind: type[T], values: dict[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            fail("BAD_SETTING", field=key, value=repr(value), allowed=", ".join(sorted(known)))
    return kind(**values)
