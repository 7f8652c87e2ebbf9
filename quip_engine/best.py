"""The best quality at a size: what measured best, chosen for a model in one step.

    method       ``best``: water-filled, bits where the predictions need them, outputs that make good each other's
                 errors
    calibration  WINDOWS, or all that the text has, or as many as leave CALIBRATED bytes of hidden states, but no fewer
                 than usual: 512 lose a fifteenth less than 128 on the demo model
    tuning       STAGES on as many windows as the text has, up to SAMPLES, or STATES bytes of what the original gives
                 for them; several times through where there are few; before blocks are rounded, too, in models of up
                 to AHEAD weights: it takes 32 bytes of memory for each
    steps        of BATCH windows: their number is what training lacks. The same 1024 windows save 26 % of the KL of
                 gutenberg-5m in 64 steps and 29 % in 256, each at the rate that measured best
    rate         RATE at ROUGH bits and fewer, beyond half of it for each bit more: as the errors that it is to mend
    labels       LABELS at ROUGH bits and fewer, and as much less of it beyond: they add noise of their own
    embeddings   where a size is asked: the bits nearest to FINER more than those of the layers

An embedding is rounded by itself, row by row, and every token goes through it, so it is worth more bits than a layer.
On the demo model at 2.9 MB, 6 bits for embeddings and 4.2 for layers lose half of what 8 and 3.6 or 4 and 4.7 do.
"""

from __future__ import annotations

from dataclasses import replace

from quip_engine.config import EMBEDDINGS, BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.estimate import FLOAT, GENERATIONS
from quip_engine.probe import ModelFacts
from quip_engine.probe.settings import ENCODERS
from quip_engine.targets import Target, target_of

METHOD = "best"
WINDOWS, CALIBRATED = 512, 1.6e10  # bytes of hidden states on disk: of all windows behind every block
STAGES = ("progressive", "end-to-end")
AHEAD = 2e8  # weights of a model that is trained ahead of rounding, at most
SAMPLES, STEPS, BATCH, RATE, LABELS = 8192, 2048, 4, 8e-3, 0.03
STATES, LEAST = 4e9, 64  # bytes of hidden states that are kept of the windows; windows that are taken all the same
ROUGH = 2.0  # bits
WHOLE = 16  # bits of embeddings that are kept
FINER = 2.0  # bits that embeddings have more than layers


def best_job(job: JobConfig, facts: ModelFacts) -> JobConfig:
    """The same model, text, seed, machine and size, or bits per weight, with everything else as it measures best.

    Raises ``BAD_TARGET`` where no bits of embeddings leave room for the layers.
    """
    recipe = RecipeConfig(METHOD, job.recipe.bits)
    budget = BudgetConfig(job.budget.size, job.budget.fits, job.budget.context, layers=job.budget.layers)
    calibration = replace(job.calibration, samples=_windows(job.calibration.seqlen, facts))
    chosen, bits = replace(job, recipe=recipe, budget=budget, calibration=calibration), recipe.bits
    if budget.size or budget.fits:
        target = _with_embeddings(chosen, facts)
        chosen, bits = replace(chosen, budget=target.budget), target.bits
    if facts.model_type in ENCODERS:
        return replace(chosen, tuning=TuningConfig(("block",)))
    return replace(chosen, tuning=_soft(bits, calibration.seqlen, facts))


def _windows(seqlen: int, facts: ModelFacts) -> int:
    """Windows of calibration."""
    generations = facts.blocks + GENERATIONS
    fitting = int(CALIBRATED / (FLOAT * min(seqlen, facts.context) * facts.hidden * generations))
    return max(CalibrationConfig.samples, min(WINDOWS, fitting))


def _soft(bits: float, seqlen: int, facts: ModelFacts) -> TuningConfig:
    """Tuning of layers that have so many bits in the mean, on windows of so many tokens."""
    stages = STAGES if facts.weights <= AHEAD else STAGES[1:]
    error = min(1.0, 2 ** (ROUGH - bits))  # of a weight, beside one of ROUGH bits
    rate, labels = (float(f"{most * error:.2g}") for most in (RATE, LABELS))
    fitting = int(STATES / (FLOAT * min(seqlen, facts.context) * facts.hidden))
    samples = min(SAMPLES, max(LEAST, fitting))
    return TuningConfig(stages, steps=STEPS, samples=samples, batch=BATCH, rate=rate, labels=labels)


def _with_embeddings(job: JobConfig, facts: ModelFacts) -> Target:
    """The target with bits of embeddings that go well with those that are left for the layers."""
    budgets = {bits: replace(job.budget, embeddings=bits) for bits in EMBEDDINGS}
    targets = {bits: target_of(job.recipe, budget, facts) for bits, budget in budgets.items()}
    reached = {bits: target for bits, target in targets.items() if target.reached}
    if not reached:
        smallest, largest = targets[min(filter(None, EMBEDDINGS))], targets[0]
        (smallest if smallest.size < smallest.reach[0] else largest).check()
    return min(reached.values(), key=lambda target: abs((target.budget.embeddings or WHOLE) - target.bits - FINER))
