"""What tuning takes, before it starts: memory, and about the time, which a timed pass tells better later (``stage``).

    bytes = process + 4 (weights + embeddings + head)           the student, its layers dense
          + 4 tokens width + 4 (embeddings + head)              the teacher: its last states, and what reads them
          + COPIES (embeddings + head)                          gradient, moments, best, a state on its way to the disk
          + COPIES weights                                    where they are trained before they are rounded
          + CODES weights                                     where codes are tuned: gradient, buffer, both once more
          + GRAPH tokens of a pass sum (m + n)                  what a pass keeps for its way back

The floats of packed layers and norms are few beside these.

    seconds = flops / rate + search                   flops: PASSES x 2 x weights for each token that is trained on

A block is trained before each group of layers but the first; a stage by soft labels sees ``steps`` batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch

from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.estimate import FLOAT, GENERATIONS, PROCESS, Rates
from quip_engine.plan import LEAST_TO_TUNE, Plan
from quip_engine.probe import ModelFacts
from quip_engine.room import MARGIN, free_memory
from quip_engine.tuning.block import EPOCHS
from quip_engine.tuning.teacher import LOGITS, held_out

COPIES = 7 * FLOAT  # gradient; two moments and the best; those three and the masters once more while they are kept
STATE = 4 * FLOAT  # on the disk: numbers, two moments, the best
CODED = FLOAT + 2  # there, where codes are tuned: the buffer; codes, and the best
CODES = 4 * FLOAT  # gradient and buffer; the buffer while it is kept, and the room of a step
GRAPH = 3 * FLOAT  # for each input and output of a linear layer; 9 % below what the demo model was seen to take
PASS_TOKENS = {"cpu": 2048, "cuda": 16384}  # of one pass through the model
JUDGEMENTS = 8  # in a run, about
PASSES = 3  # forward passes that training on a token takes
RECODED = 0.1  # of the time that rounding a weight takes: choosing its code again, in a step
LOGIT_COPIES = 6 * FLOAT  # of the logits that exist at once


@dataclass(frozen=True)
class Cost:
    """Of all stages together: seconds; bytes at most."""

    seconds: float
    memory: int


def expected(facts: ModelFacts, job: JobConfig, samples: int, device: torch.device, rates: Rates) -> Cost:
    """What the stages of a job will take, within a factor of two. ``samples``: windows there are to tune on."""
    tuning, length = job.tuning, min(job.calibration.seqlen, facts.context)
    weights, head = facts.weights, facts.vocabulary * facts.hidden
    held = held_out(samples)
    batch = min(tuning.batch, max(1, samples - held))
    steps = tuning.steps or -(-(samples - held) // batch)
    forward = 2 * (weights + 2 * head)  # flops of a token, the teacher's head, too
    stage = length * (steps * batch * (PASSES * forward) + (JUDGEMENTS + 1) * held * forward + samples * 2 * weights)
    groups = len({tuple(layer.shape) for layer in facts.linear_layers if layer.block == 0})
    tokens = length * job.calibration.samples
    block = groups * EPOCHS * tokens * PASSES * 2 * weights
    flops = sum(stage if name != "block" else block for name in tuning.stages)
    search = steps * weights * rates.per_weight * RECODED if "pv" in tuning.stages else 0.0
    shape = (samples, length)
    needed = memory_of(facts, job, shape, device) if tuning.soft else 0
    return Cost(flops / rates.flops + search, needed)


def memory(plan: Plan) -> int:
    """Bytes that tuning by soft labels needs on its device; the teacher's states are counted with them."""
    samples, length = plan.tuning_tokens.shape
    return memory_of(plan.facts, plan.job, (samples, length), plan.device)


def memory_of(facts: ModelFacts, job: JobConfig, shape: tuple[int, int], device: torch.device) -> int:
    """The same of a job that is not planned yet; ``shape``: (samples, length) of the windows."""
    samples, length = shape
    weights = facts.weights
    outside = facts.unquantized_bytes // getattr(torch, facts.dtype).itemsize
    kept = pass_windows(device, length) * length * sum(sum(layer.shape) for layer in facts.linear_layers)
    states = samples * length * facts.hidden * FLOAT
    process = PROCESS if device.type == "cpu" else 0
    dense = FLOAT * (weights + 2 * outside)
    codes = CODES * weights if "pv" in job.tuning.stages else 0
    trained = COPIES * _trained(facts, job)
    return int(process + dense + codes + states + trained + GRAPH * kept + LOGIT_COPIES * LOGITS)


def kept_bytes(plan: Plan) -> int:
    """Bytes on the disk of a training that goes on: its state, whole in every generation, and the next one."""
    if not plan.job.tuning.soft:
        return 0
    coded = CODED * plan.facts.weights if "pv" in plan.job.tuning.stages else 0
    return (GENERATIONS + 1) * (STATE * _trained(plan.facts, plan.job) + coded)


def _trained(facts: ModelFacts, job: JobConfig) -> int:
    """Numbers that are trained at once, but for the floats of packed layers and norms."""
    outside = facts.unquantized_bytes // getattr(torch, facts.dtype).itemsize
    progressive = facts.weights if "progressive" in job.tuning.stages else 0
    return progressive + (outside if job.tuning.head else 0)


def pass_windows(device: torch.device, length: int) -> int:
    """Windows of so many tokens that go through the model together."""
    return max(1, PASS_TOKENS[device.type] // length)


def check_memory(plan: Plan) -> None:
    """Raises ``TUNING_MEMORY`` with the samples that would fit, where less is free than ``MARGIN`` times the need."""
    if plan.job.force or not plan.job.tuning.soft:
        return
    needed, free = memory(plan), free_memory(plan.device)
    if free < MARGIN * needed:
        _refuse(plan, needed, free)


@contextmanager
def named_memory(plan: Plan) -> Iterator[None]:
    """What a stage by soft labels needs too much of a GPU is told as that. Raises ``TUNING_MEMORY``."""
    try:
        yield
    except torch.OutOfMemoryError:
        _refuse(plan, memory(plan), free_memory(plan.device))


def _refuse(plan: Plan, needed: int, free: int) -> NoReturn:
    samples, length = plan.tuning_tokens.shape
    over = (MARGIN * needed - free) / MARGIN
    fitting = samples - math.ceil(over / (length * plan.facts.hidden * FLOAT))
    remedy = f"Use {fitting} samples for tuning" if LEAST_TO_TUNE <= fitting < samples else "Use shorter windows"
    fail("TUNING_MEMORY", needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}", remedy=remedy)
