"""The memory that tuning takes, before it starts; its time comes from a pass that is timed (``stage``).

    bytes = process + 4 (weights + embeddings + head)           the student, its layers dense
          + 4 tokens width + 4 (embeddings + head)              the teacher: its last states, and what reads them
          + COPIES (embeddings + head)                          gradient, moments, best, a state on its way to the disk
          + CODES weights                                     where codes are tuned: gradient, buffer, both once more
          + GRAPH tokens of a pass sum (m + n)                  what a pass keeps for its way back

The floats of packed layers and norms are few beside these.
"""

from __future__ import annotations

import math

import torch

from quip_engine.errors import fail
from quip_engine.estimate import FLOAT, PROCESS
from quip_engine.plan import LEAST_TO_TUNE, Plan
from quip_engine.room import MARGIN, free_memory
from quip_engine.tuning.teacher import LOGITS

COPIES = 7 * FLOAT  # gradient; two moments and the best; those three and the masters once more while they are kept
CODES = 4 * FLOAT  # gradient and buffer; the buffer while it is kept, and the room of a step
GRAPH = 3 * FLOAT  # for each input and output of a linear layer; 9 % below what the demo model was seen to take
LOGIT_COPIES = 6 * FLOAT  # of the logits that exist at once


def memory(plan: Plan, pass_windows: int) -> int:
    """Bytes that tuning by soft labels needs on its device; the teacher's states are counted with them."""
    samples, length = plan.tuning_tokens.shape
    facts = plan.facts
    weights = sum(math.prod(layer.shape) for layer in facts.linear_layers)
    outside = facts.unquantized_bytes // getattr(torch, facts.dtype).itemsize
    kept = pass_windows * length * sum(sum(layer.shape) for layer in facts.linear_layers)
    trained = outside if plan.job.tuning.head else 0
    states = samples * length * facts.hidden * FLOAT
    process = PROCESS if plan.device.type == "cpu" else 0
    dense = FLOAT * (weights + 2 * outside)
    codes = CODES * weights if "pv" in plan.job.tuning.stages else 0
    return int(process + dense + codes + states + COPIES * trained + GRAPH * kept + LOGIT_COPIES * LOGITS)


def check_memory(plan: Plan, pass_windows: int) -> None:
    """Raises ``TUNING_MEMORY`` with the samples that would fit, where less is free than ``MARGIN`` times the need."""
    needed, free = memory(plan, pass_windows), free_memory(plan.device)
    if free >= MARGIN * needed or plan.job.force:
        return
    samples, length = plan.tuning_tokens.shape
    over = (MARGIN * needed - free) / MARGIN
    fitting = samples - math.ceil(over / (length * plan.facts.hidden * FLOAT))
    remedy = f"Use {fitting} samples for tuning" if fitting >= LEAST_TO_TUNE else "Use shorter windows"
    fail("TUNING_MEMORY", needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}", remedy=remedy)
