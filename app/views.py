"""What a run looks like: its view as markup and figures. Pure functions, no Gradio state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app import figures, layer_table, tuning_views
from app import widgets as w
from app.fmt import UNKNOWN, by_trial, clock, duration, eta, fixed, plural, sci, size
from app.journal import log
from app.sizing import asked
from app.state import RunView
from app.tuning import now_doing
from quip_engine.linalg.guarantee import hadamard_incoherence
from quip_engine.runs import Run

PHASES = {"check": "Check", "calibrate": "Calibrate", "quantize": "Quantize", "tune": "Tune", "pack": "Pack"}
PHASE_WORDS = {
    "check": "checking the model",
    "calibrate": "reading the calibration text",
    "tune": "reading what the original says",
    "pack": "writing the checkpoint",
    "done": "finishing",
}
KINDS = {"stopping": "running", "starting": "running", "interrupted": "failed"}  # look of a status
KINDS |= dict.fromkeys(("queued", "paused", "stopped"), "idle")
WORDS = {"stopping": "pausing"}  # a status as it is said


def model_name(run: Run) -> str:
    return Path(run.job.model).name


def recipe_line(view: RunView) -> str:
    """Method and parts as one line: ``quip# · hadamard × e8p × ldlq``."""
    recipe = view.run.job.recipe
    if view.started is None:
        return recipe.method
    parts = (view.started.recipe[slot]["name"] for slot in ("transform", "codebook", "rounding"))
    return f"{recipe.method} · {' × '.join(parts)}{by_trial(len(view.started.recipe.get('rivals', ())))}"


def status_pill(status: str, *, sentence: bool = True) -> w.Html:
    """The state of a run as a word with a dot; ``sentence`` writes it with a capital."""
    word = WORDS.get(status, status)
    return w.pill(word.capitalize() if sentence else word, KINDS.get(status, status))


def checkpoint(run: Run) -> Path:
    """Where a finished run left its model."""
    return Path((run.result or {}).get("out") or run.job.out)


# -- the strip ---------------------------------------------------------------------------------------------------------


def is_news(view: RunView, since: int) -> bool:
    """Whether the strip shows this run: it is busy, was cut off, or ended while this app was there.

    ``since``: the latest turn that had ended before.
    """
    return view.run.alive or view.run.status == "interrupted" or view.run.turn > since


def strip(view: RunView | None, now: float, since: int) -> w.Html:
    """The job in one line. Its buttons live outside: markup that is replaced every second would lose their focus."""
    if view is None or not is_news(view, since):
        return w.Html(f'<div class="job">{w.pill("Idle", "idle")}<span class="what">No job running</span></div>')
    status = view.run.status
    kind = KINDS.get(status, status)
    what = w.joined([w.tag("b", model_name(view.run)), *_strip_words(view, now)], " · ")
    stage = view.tuning.current
    share = len(view.layers) / view.total if view.total else 0.0
    share = stage.step / stage.started.steps if stage and share == 1 else share
    bar = w.progress(1.0 if status == "done" else share, "Job progress", kind)
    return w.Html(f'<div class="job">{status_pill(status)}<span class="what num">{what}</span>{bar}</div>')


def _strip_words(view: RunView, now: float) -> list[str]:
    if view.run.alive:
        return _working_words(view, now)
    if view.finished:
        return [f"{view.finished.bits_per_weight:.2f} bits per weight", size(view.finished.bytes)]
    if view.failed:
        return [view.failed.message.rstrip(".")]
    return [f"{plural(len(view.blocks), 'block')} saved"]


def _working_words(view: RunView, now: float) -> list[str]:
    done, total = len(view.layers), view.total
    if view.run.status == "stopping":
        return ["ends after this step" if view.phase == "tune" else "ends after this layer"]
    if view.phase == "tune" and view.tuning.current:
        return [now_doing(view.tuning.current, now)]
    if view.phase in PHASE_WORDS or not total:
        return [PHASE_WORDS.get(view.phase, PHASE_WORDS["check"])]
    left = eta(view.remaining(now))
    words = left if view.remaining(now) is None else f"{left} left"
    return [f"layer {min(done + 1, total)} of {total}", f"{words}, then tuning" if _tuned(view) else words]


def _tuned(view: RunView) -> bool:
    """Whether what is told of the time ends before the run does."""
    return bool(view.run.job.tuning.stages) and view.phase != "pack"


def spoken(view: RunView | None) -> str:
    """What a screen reader hears: states and phases, not layers."""
    if view is None:
        return "No job running"
    phase = f", {PHASES.get(view.phase, view.phase).lower()}" if view.run.alive else ""
    return f"{model_name(view.run)}: {WORDS.get(view.run.status, view.run.status)}{phase}"


# -- the header of the Monitor -----------------------------------------------------------------------------------------


def title(view: RunView) -> str:
    """What has become of the run, in a few words."""
    name, status = model_name(view.run), view.run.status
    doing = f"Tuning {name}" if view.phase == "tune" else f"Quantizing {name} to {asked(view.run.job)}"
    return {
        "done": f"{name} has {view.finished.bits if view.finished else 0:.4g} bits per weight now",
        "failed": f"{name} failed {'in tuning' if view.phase == 'tune' else f'at layer {len(view.layers) + 1}'}",
        "paused": f"{name} is paused",
        "stopped": f"{name} is stopped",
        "queued": f"{name} waits in the queue",
        "interrupted": f"{name} was interrupted",
        "stopping": f"{name} pauses after this {'step' if view.phase == 'tune' else 'layer'}",
    }.get(status, doing)


def head(view: RunView) -> w.Html:
    status, parts = view.run.status, [view.run.id.replace("-", " "), recipe_line(view)]
    if view.started:
        parts.append("{} × {} tokens".format(*view.started.calibration["windows"]))
    parts.append(f"seed {view.run.job.seed}")
    tunes = bool(view.tuning.stages or view.run.job.tuning.soft) or view.phase == "tune"
    phases = [phase for phase in PHASES if phase != "tune" or tunes]
    current = len(phases) if view.phase == "done" else phases.index(view.phase)
    kind = "failed" if status in ("failed", "interrupted") else ""
    return w.joined([w.heading(title(view), " · ".join(parts)), w.steps([PHASES[p] for p in phases], current, kind)])


def numbers(view: RunView, previous: RunView | None, now: float) -> w.Html:
    done, total = len(view.layers), view.total
    shown = w.Html(f'{done}<span class="muted"> / {total or UNKNOWN}</span>')
    where = view.upcoming()
    below = "{1} · {0}".format(*where) if where else "all blocks"
    written = view.finished.bytes if view.finished else sum(b.bytes for b in view.blocks.values())
    expected = view.started.output_bytes if view.started else None
    return w.stats(
        [
            ("Layers", shown, f"block {below}" if where else below),
            _time(view, now),
            ("Mean proxy loss", sci(view.mean_loss), _against(view, previous)),
            ("Bits per weight", fixed(view.bits_per_weight, 2), "codes, scales and signs"),
            ("Written", size(written), "on disk" if view.finished else f"of about {size(expected)}"),
            _peak(view),
        ]
    )


def _time(view: RunView, now: float) -> tuple[str, str, str]:
    ended = clock(view.run.finished or (view.log[-1][0] if view.log else view.run.created))
    if view.finished:
        return "Took", duration(view.finished.seconds), f"finished {ended}"
    if not view.run.alive:
        return "Ran for", duration(0 if view.begun is None else max(0, view.heard - view.begun)), f"ended {ended}"
    spent = 0 if view.begun is None else now - view.begun
    left, of = view.remaining(now), ""
    if _tuned(view):
        of = " of this stage" if view.phase == "tune" else " of the layers"
    return f"Left{of}", eta(left), f"{duration(max(10, 5 * round(spent / 5)))} so far" if spent >= 10 else ""


def _against(view: RunView, previous: RunView | None) -> object:
    """Change of the mean loss to the same layers of an earlier run."""
    both = [name for name in view.layers if previous and name in previous.layers]
    if not previous or not both:
        return "relative, lower is better"
    mean, old = (sum(v.layers[n].rel_proxy for n in both) for v in (view, previous))
    return w.Html(f"{layer_table.change(mean, old)} to {previous.run.id.replace('-', ' ')}") if old > 0 else ""


def _peak(view: RunView) -> tuple[str, str, str]:
    gpu = max((b.gpu_mb or 0 for b in view.blocks.values()), default=0)
    rss = max((b.peak_rss_mb for b in view.blocks.values()), default=None)
    if gpu:
        return "Peak GPU memory", size(gpu * 1e6), "of this run"
    return "Peak memory", size(rss * 1e6) if rss else UNKNOWN, "of the worker, PyTorch included"


def trouble(view: RunView) -> w.Html | None:
    """The banner of a run that did not end as it should."""
    saved = f"{plural(len(view.blocks), 'block')} of {view.started.blocks if view.started else UNKNOWN} are saved."
    if view.run.status == "interrupted":
        code, why = (
            "WORKER_DIED",
            "Its process ended without a word: the computer slept, restarted, or somebody ended it.",
        )
        if (view.run.error or {}).get("error") == "HOST_MEMORY":
            code, why = "HOST_MEMORY", "The system ended its process because memory ran out; fewer samples need less."
        what = f"{model_name(view.run)} was interrupted."
        return w.banner("error", what, why, f"{saved} Resume goes on after the last of them.", code=code)
    if view.run.status != "failed":
        return None
    error = view.run.error or {}
    message, hint = error.get("message", "The run failed."), error.get("hint", "")
    details = view.failed.details if view.failed else ""
    return w.banner("error", message, "", f"{hint} {saved}", code=error.get("error", "FAILED"), details=details)


# -- figures, table, log -----------------------------------------------------------------------------------------------


def plots(view: RunView, previous: RunView | None) -> dict[str, figures.Figure]:
    """The figures of the Monitor; empty before the layers are known."""
    if not view.lanes:
        return {name: {} for name in ("loss", "tiles", "mu_w", "mu_h", "kl", "bits")}
    points, axis, run = view.points(), view.axis, view.run.id
    earlier = [p for p in previous.points() if p.lane in axis.names and p.block < axis.blocks] if previous else []
    current = None if view.run.status == "done" else view.upcoming()
    failed = view.run.status in ("failed", "interrupted")
    bounds = _incoherence_bounds(view)
    return {
        **tuning_views.plots(view),
        "loss": figures.proxy_loss(points, axis, run, earlier),
        "tiles": figures.block_map(points, axis, run, current, failed),
        "mu_w": figures.incoherence(points, axis, run, "W", [most[0] for most in bounds]),
        "mu_h": figures.incoherence(points, axis, run, "H", [most[1] for most in bounds]),
    }


def _incoherence_bounds(view: RunView) -> list[tuple[float, float]]:
    """Of W and H in each lane, what a randomized Hadamard transform promises; empty for other transforms."""
    if view.started is None or view.started.recipe["transform"]["name"] != "hadamard":
        return []
    shapes = {view.lanes[layer["name"]]: layer["shape"] for layer in view.started.layers}
    return [hadamard_incoherence(*shapes[name]) for name in view.axis.names]


def screen(view: RunView | None, previous: RunView | None, now: float) -> dict[str, Any]:
    """Every part of the Monitor that shows a run, by name; empty where there is none."""
    if view is None:
        return {}
    parts = {"head": head(view), "numbers": numbers(view, previous, now), "log": log(view)}
    return {**parts, **plots(view, previous)}
