"""The best quality at a size: what measured best, chosen for a model in one step.

    method       ``best``: water-filled, with the largest trellis, bits where the predictions need them
    calibration  WINDOWS, or all that the text has: 512 lose a fifteenth less than 128 on the demo model
    tuning       STAGES on as many windows as the text has, up to SAMPLES; several times through where there are few
    embeddings   where a size is asked: the bits nearest to FINER more than those of the layers

An embedding is rounded by itself, row by row, and every token goes through it, so it is worth more bits than a layer.
On the demo model at 2.9 MB, 6 bits for embeddings and 4.2 for layers lose half of what 8 and 3.6 or 4 and 4.7 do.
"""

from __future__ import annotations

from dataclasses import replace

from quip_engine.config import EMBEDDINGS, BudgetConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.probe import ModelFacts
from quip_engine.probe.settings import ENCODERS
from quip_engine.targets import target_of

METHOD = "best"
WINDOWS = 512
STAGES = ("end-to-end",)
SAMPLES, STEPS, RATE = 4096, 256, 2e-2
WHOLE = 16  # bits of embeddings that are kept
FINER = 2.0  # bits that embeddings have more than layers


def best_job(job: JobConfig, facts: ModelFacts) -> JobConfig:
    """The same model, text, seed, machine and size, or bits per weight, with everything else as it measures best.

    More windows of calibration, where the job asks for them, stay. Raises ``BAD_TARGET`` where no bits of embeddings
    leave room for the layers.
    """
    recipe = RecipeConfig(METHOD, job.recipe.bits)
    budget = BudgetConfig(job.budget.size, job.budget.fits, job.budget.context, layers=job.budget.layers)
    soft = TuningConfig(STAGES, steps=STEPS, samples=SAMPLES, rate=RATE)
    tuning = TuningConfig(("block",)) if facts.model_type in ENCODERS else soft
    calibration = replace(job.calibration, samples=max(job.calibration.samples, WINDOWS))
    chosen = replace(job, recipe=recipe, budget=budget, tuning=tuning, calibration=calibration)
    return replace(chosen, budget=_with_embeddings(chosen, facts)) if budget.size or budget.fits else chosen


def _with_embeddings(job: JobConfig, facts: ModelFacts) -> BudgetConfig:
    """The budget with bits of embeddings that go well with those that are left for the layers."""
    budgets = {bits: replace(job.budget, embeddings=bits) for bits in EMBEDDINGS}
    targets = {bits: target_of(job.recipe, budget, facts) for bits, budget in budgets.items()}
    reached = {bits: target for bits, target in targets.items() if target.reached}
    if not reached:
        smallest, largest = targets[min(filter(None, EMBEDDINGS))], targets[0]
        (smallest if smallest.size < smallest.reach[0] else largest).check()
    return budgets[min(reached, key=lambda bits: abs((bits or WHOLE) - reached[bits].bits - FINER))]
