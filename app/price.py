"""What a run will cost, set against what this computer has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from app import widgets as w
from app.fmt import by_trial, fixed, plural, rough, size
from app.machine import free_disk, memory
from quip_engine.calibration import calibration_windows, is_local
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.devices import resolve_device
from quip_engine.estimate import Estimate, Rates, estimate, usual_rates
from quip_engine.loading import load_tokenizer
from quip_engine.methods.registry import Recipe
from quip_engine.probe import ModelFacts
from quip_engine.targets import Target
from quip_engine.tuning import cost as tuning

BY = {"sensitivity": "by what errors cost", "trace": "by trace", "uniform": "alike"}


@dataclass(frozen=True)
class Costs:
    """Of a whole run; ``tuning``: None where nothing is tuned."""

    run: Estimate
    tuning: tuning.Cost | None

    @property
    def seconds(self) -> float:
        return self.run.seconds + (self.tuning.seconds if self.tuning else 0.0)

    @property
    def memory(self) -> int:
        return max(self.run.peak_memory, self.tuning.memory if self.tuning else 0)


def run_costs(facts: ModelFacts, target: Target, job: JobConfig, rates: Rates | None = None) -> Costs:
    """``rates``: from a measured layer; without them the recipe is timed on small ones."""
    recipe = target.recipe
    bits_alone = target.measured and not recipe.weighted
    measuring = replace(recipe, hessian="weighted") if bits_alone else recipe  # the same way back
    rates = rates or usual_rates(_timed(target), job.device)
    run = estimate(facts, measuring, job.calibration, job.device, rates, weight_files=target.weight_bytes)
    if not job.tuning.stages:
        return Costs(run, None)
    asked = replace(job.calibration, samples=job.tuning.samples)
    samples = _windows(facts.path, facts.context, asked, job.seed) if is_local(asked.source) else asked.samples
    return Costs(run, tuning.expected(facts, job, samples, resolve_device(job.device), rates))


def _timed(target: Target) -> Recipe:
    """What is timed in place of the recipe: one at whole bits, so that not every size has to be timed by itself."""
    whole = [rate for rate in target.prices.rates if rate == int(rate)]
    return (
        target.prices.at(min(whole, key=lambda rate: abs(rate - target.bits)))
        if target.rule and whole
        else target.recipe
    )


@lru_cache(maxsize=16)
def _windows(folder: str, context: int, asked: CalibrationConfig, seed: int) -> int:
    """As many windows as a text has, ``asked.samples`` at most."""
    return len(calibration_windows(load_tokenizer(Path(folder)), asked, seed, context).tokens)


def price(facts: ModelFacts, target: Target, job: JobConfig, costs: Costs, measured: bool = False) -> w.Html:
    """The estimates of a job as a card's content. ``measured``: the time follows from one of the model's layers."""
    ram, disk, recipe = memory(job.device), free_disk(Path(job.out)), target.recipe
    rough_time = "from one layer, measured" if measured else "within a factor of two"
    figures = w.stats(
        [
            ("Size", size(costs.run.bytes), f"{facts.bytes / costs.run.bytes:.1f} × smaller"),
            ("Time", f"about {rough(costs.seconds)}", rough_time),
            ("Bits per weight", *_bits(target, costs.run)),
            ("Peak memory", size(costs.memory), f"of {size(ram.total)}"),
        ],
        columns=2,
    )
    rows = [
        *([("Weight files", _met(target, job))] if target.size else []),
        *([("Bits by hand", plural(len(target.fixed), "layer"))] if target.fixed else []),
        *([("Tuning", _tuned(job, costs.tuning))] if costs.tuning else []),
        (f"{ram.label}", _against(costs.memory, ram.free)),
        ("Disk", _against(costs.run.disk, disk)),
        ("Method", f"{job.recipe.method} · {recipe}{by_trial(len(recipe.rivals))}"),
        ("Output", w.tag("span", job.out, "path-text")),
    ]
    return w.joined([figures, w.facts(rows), _short_of(facts, recipe, job, costs, ram.free)])


def _bits(target: Target, run: Estimate) -> tuple[str, str]:
    if not target.rule:
        return fixed(run.bits_per_weight, 2), "of the linear layers, every byte"
    return fixed(target.bits, 2), f"on average, shared out {BY[target.rule]}"


def _met(target: Target, job: JobConfig) -> str:
    """How the size that is asked is met."""
    asked = "largest that fits" if job.budget.fits else "as asked"
    exact = target.prices.any_rate and target.rule != "trace"
    return f"{target.size / 1e6:.3f} MB, {asked}{'' if exact else ', or just below'}"


def _tuned(job: JobConfig, cost: tuning.Cost) -> str:
    return f"{plural(len(job.tuning.stages), 'stage')}, about {rough(cost.seconds)} of the time"


def _short_of(facts: ModelFacts, recipe: Recipe, job: JobConfig, costs: Costs, free: float) -> w.Html:
    """Where memory is too small: what would save most of it. Nothing else; the run may be started anyway."""
    if costs.memory < free:
        return w.Html("")
    text = job.calibration
    half = replace(text, samples=max(1, text.samples // 2))
    shorter = replace(text, seqlen=max(8, text.seqlen // 2))
    others = [(f"{half.samples} samples", recipe, half), (f"{shorter.seqlen} tokens each", recipe, shorter)]
    if recipe.hessian != "plain":
        others.append(("Hessian plain", replace(recipe, hessian="plain"), text))
    run = costs.run.peak_memory
    saved = [(run - estimate(facts, r, t, job.device).peak_memory, words) for words, r, t in others]
    if costs.tuning and costs.tuning.memory > run:
        saved = [(costs.tuning.memory - run, "no tuning")]
    items = [f"{words} saves {size(bytes)}" for bytes, words in sorted(saved, reverse=True) if bytes > 0]
    todo = f"{'; '.join(items)}. " if items else ""
    what = f"It may not fit: about {size(costs.memory)} are needed, {size(free)} are free."
    return w.banner("warn", what, "", f"{todo}Other programs may be closed. You can start anyway.")


def _against(needed: float, free: float) -> w.Html:
    fits = ("fits", "yes") if needed < 0.8 * free else ("tight", "tight") if needed < free else ("too little", "no")
    return w.joined([f"{size(needed)} of {size(free)} free", w.Html("&ensp;"), w.pill(*fits)])
