"""What a run will cost, set against what this computer has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app import widgets as w
from app.fmt import by_trial, fixed, rough, size
from app.machine import free_disk, memory
from quip_engine.config import JobConfig
from quip_engine.estimate import Estimate, estimate
from quip_engine.methods.registry import Recipe
from quip_engine.probe import ModelFacts


def price(facts: ModelFacts, recipe: Recipe, job: JobConfig, costs: Estimate, measured: bool = False) -> w.Html:
    """The estimates of a job as a card's content. ``measured``: the time follows from one of the model's layers."""
    ram = memory(job.device)
    disk = free_disk(Path(job.out))
    figures = w.stats(
        [
            ("Size", size(costs.bytes), f"{facts.bytes / costs.bytes:.1f} × smaller"),
            (
                "Time",
                f"about {rough(costs.seconds)}",
                "from one layer, measured" if measured else "within a factor of two",
            ),
            ("Bits per weight", fixed(costs.bits_per_weight, 2), "of the linear layers, every byte"),
            ("Peak memory", size(costs.peak_memory), f"of {size(ram.total)}"),
        ],
        columns=2,
    )
    rows = [
        (f"{ram.label}", _against(costs.peak_memory, ram.free)),
        ("Disk", _against(costs.disk, disk)),
        ("Method", f"{job.recipe.method} · {recipe}{by_trial(len(recipe.rivals))}"),
        ("Output", w.tag("span", job.out, "path-text")),
    ]
    return w.joined([figures, w.facts(rows), _short_of(facts, recipe, job, costs, ram.free)])


def _short_of(facts: ModelFacts, recipe: Recipe, job: JobConfig, costs: Estimate, free: float) -> w.Html:
    """Where memory is too small: what would save most of it. Nothing else; the run may be started anyway."""
    if costs.peak_memory < free:
        return w.Html("")
    text = job.calibration
    half = replace(text, samples=max(1, text.samples // 2))
    shorter = replace(text, seqlen=max(8, text.seqlen // 2))
    others = [(f"{half.samples} samples", recipe, half), (f"{shorter.seqlen} tokens each", recipe, shorter)]
    if recipe.hessian != "plain":
        others.append(("Hessian plain", replace(recipe, hessian="plain"), text))
    saved = [(costs.peak_memory - estimate(facts, r, t, job.device).peak_memory, words) for words, r, t in others]
    items = [f"{words} saves {size(bytes)}" for bytes, words in sorted(saved, reverse=True) if bytes > 0]
    todo = f"{'; '.join(items)}. " if items else ""
    what = f"It may not fit: about {size(costs.peak_memory)} are needed, {size(free)} are free."
    return w.banner("warn", what, "", f"{todo}Other programs may be closed. You can start anyway.")


def _against(needed: float, free: float) -> w.Html:
    fits = ("fits", "yes") if needed < 0.8 * free else ("tight", "tight") if needed < free else ("too little", "no")
    return w.joined([f"{size(needed)} of {size(free)} free", w.Html("&ensp;"), w.pill(*fits)])
