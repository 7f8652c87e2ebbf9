"""What a run tells the world: plain values, ignorant of storage and of screens.

The pipeline yields them, the worker appends each as one JSON line, command line and app read and word them.
Losses are relative (see ``linalg.proxy``), times are seconds, sizes are bytes; ``None`` means not measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

PHASES = ("check", "calibrate", "quantize", "tune", "pack", "done")


@dataclass(frozen=True)
class LayerName:
    """A linear layer as people name it: block 3, projection ``q_proj``; ``name`` is its module path."""

    name: str
    block: int
    projection: str
    shape: tuple[int, int]  # (outputs, inputs)


@dataclass(frozen=True)
class RunStarted:
    model: str
    architecture: str
    recipe: dict[str, Any]
    calibration: dict[str, Any]
    blocks: int
    layers: list[dict[str, Any]]  # LayerName of every layer that will be quantized, in order of work
    output_bytes: int  # estimate
    seed: int
    device: str
    resumed_at: int = 0  # first block that is still to be done


@dataclass(frozen=True)
class PhaseChanged:
    phase: str  # one of PHASES
    note: str = ""


@dataclass(frozen=True)
class Warned:
    """Something a person should know and the result will name; the run goes on."""

    code: str
    message: str


@dataclass(frozen=True)
class BitsAllocated:
    """Layers get bits of their own: settled before the first of them is quantized."""

    rule: str  # "sensitivity", "trace" or "uniform"
    bits: dict[str, float]  # by module path
    asked_bytes: int  # of the weight files; 0: no size was asked
    expected_bytes: int


@dataclass(frozen=True)
class BlockCalibrated:
    block: int
    tokens: int
    seconds: float
    groups: list[list[str]]  # projections that share one input, hence one Hessian


@dataclass(frozen=True)
class LayerQuantized:
    name: str
    block: int
    projection: str
    shape: tuple[int, int]
    bits_per_weight: float  # every stored bit of this layer
    rel_proxy: float
    rel_mse: float
    mu_w_before: float
    mu_w_after: float
    mu_h_before: float | None
    mu_h_after: float | None
    seconds: float
    notes: list[str] = field(default_factory=list)  # fallbacks taken, by name
    transform: str = ""  # that this layer got, where each has its own
    theory: dict[str, float | None] = field(default_factory=dict)  # what bounds are made of (``linalg.guarantee``)


@dataclass(frozen=True)
class LayerSkipped:
    name: str
    block: int
    reason: str


@dataclass(frozen=True)
class BlockSaved:
    block: int
    bytes: int
    sha256: str
    seconds: float
    peak_rss_mb: float
    gpu_mb: float | None = None


@dataclass(frozen=True)
class BlockTuned:
    """A block was trained before the layers ``names`` were rounded; losses: of its outputs, relative, held out."""

    block: int
    names: list[str]  # projections
    steps: int
    loss_before: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class TuningStarted:
    """What a stage of tuning will do, and what it will cost by a few timed steps."""

    stage: str
    steps: int
    windows: int  # trained on
    held_out: int  # windows that judge
    numbers: int  # that are trained
    kl: float  # to the original on the held-out windows, as it is
    seconds: float  # predicted, from here to the end
    peak_rss_mb: float  # predicted


@dataclass(frozen=True)
class TuningProgress:
    """After a step, or some."""

    stage: str
    step: int
    steps: int
    loss: float  # of this step's windows
    kl: float | None  # on the held-out windows, as it would be stored; None where it was not measured
    best_kl: float
    seconds: float


@dataclass(frozen=True)
class TuningFinished:
    """``taken`` tells whether the tuned model goes on, or the one before, which was better."""

    stage: str
    steps: int
    kl_before: float
    kl: float  # the best
    taken: bool
    seconds: float
    peak_rss_mb: float


@dataclass(frozen=True)
class RunFinished:
    out: str
    method: str
    bits: float
    bits_per_weight: float
    bytes: int
    seconds: float  # of work; those of a run include all its workers'
    peak_rss_mb: float
    mean_rel_proxy: float
    skipped: list[str] = field(default_factory=list)
    weight_bytes: int = 0  # of the weight files
    asked_bytes: int = 0  # for them; 0: no size was asked
    rule: str = ""  # as in ``BitsAllocated``
    allocation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunStopped:
    block: int  # blocks that are finished and saved


@dataclass(frozen=True)
class RunFailed:
    code: str
    message: str
    hint: str
    details: str = ""


@dataclass(frozen=True)
class EvaluationStarted:
    model: str
    against: str  # empty: nothing to compare with
    text: str  # name of the text
    seqlen: int
    windows: int
    blocks: int  # whose states are compared
    layers: list[dict[str, Any]]  # LayerName of every layer that will be measured alone
    layer_windows: int  # on so many windows
    tasks: list[str]
    device: str


@dataclass(frozen=True)
class WindowScored:
    windows: int  # scored so far
    figures: dict[str, float | None]  # of all of them, with standard errors (``evaluate.Evaluation.figures``)
    seconds: float  # since the first window began


@dataclass(frozen=True)
class BlockCompared:
    """Hidden states after a block, model against original (``damage.BlockErrors``)."""

    block: int
    error: float
    error_error: float | None
    cosine: float


@dataclass(frozen=True)
class LayerCompared:
    """KL of the original with this one layer of the model, over the windows measured so far."""

    name: str
    block: int
    projection: str
    kl: float
    windows: int


@dataclass(frozen=True)
class TaskScored:
    task: str
    metric: str
    value: float
    error: float | None
    original: float | None  # the original's, None without one
    questions: int


@dataclass(frozen=True)
class EvaluationFinished:
    """Everything an evaluation has found; figures as in ``WindowScored``, records as in ``damage``."""

    windows: int
    seqlen: int
    tokens: int  # that were scored
    figures: dict[str, float | None]
    positions: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    blocks: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    model: dict[str, Any]  # name, bytes, bits_per_weight, parameters, method
    original: dict[str, Any] | None
    notes: list[str]
    seconds: float
    passes_seconds: float  # of a window through the model, and through the original if there is one


Event = (
    RunStarted
    | PhaseChanged
    | Warned
    | BitsAllocated
    | BlockCalibrated
    | LayerQuantized
    | LayerSkipped
    | BlockSaved
    | BlockTuned
    | TuningStarted
    | TuningProgress
    | TuningFinished
    | RunFinished
    | RunStopped
    | RunFailed
    | EvaluationStarted
    | WindowScored
    | BlockCompared
    | LayerCompared
    | TaskScored
    | EvaluationFinished
)
_TYPES: dict[str, type] = {kind.__name__: kind for kind in Event.__args__}


def to_json(event: Event) -> dict[str, Any]:
    return {"type": type(event).__name__, **asdict(event)}


def from_json(record: dict[str, Any]) -> Event:
    """The event of a record; keys this version does not know (``seq``, ``time``, later fields) are left out."""
    kind = _TYPES[record["type"]]
    known = {f.name for f in fields(kind)}
    return kind(**{k: v for k, v in record.items() if k in known})
