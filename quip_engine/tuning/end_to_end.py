"""End-to-end tuning: the packed model learns to predict what the original predicts (QuIP# section 5, step 2).

    min over masters   mean over positions of  KL(original || packed)

Soft labels, the original's whole distribution at every position, from calibration text; codes stay as they are. Of the
windows the last are held out, and it is their KL that decides what is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quip_engine.skeleton import Skeleton
from quip_engine.tuning.continuous import Masters
from quip_engine.tuning.teacher import Teacher

LEAST_HELD_OUT, SHARE_HELD_OUT = 4, 0.1


def held_out(samples: int) -> int:
    """How many of the last windows are for judging only."""
    return max(LEAST_HELD_OUT, round(SHARE_HELD_OUT * samples))


class Distillation:
    """KL to the original, by the windows of a teacher; the first ones are trained on, the last ones judge."""

    def __init__(self, student: Skeleton, teacher: Teacher, masters: Masters, rate: float, pass_windows: int) -> None:
        self.student, self.teacher, self.trained = student, teacher, masters
        self.masters, self.rates = masters.tensors, masters.rates(rate)
        self.windows = len(teacher.tokens) - held_out(len(teacher.tokens))
        self.pass_windows = pass_windows

    def gradient(self, windows: Tensor, share: float) -> float:
        with torch.enable_grad():
            hidden = last_states(self.student, self.teacher.tokens[windows])
            leaf = hidden.detach().requires_grad_()
            loss = self.teacher.divergence(self.student, windows, leaf, share)
            hidden.backward(leaf.grad)
        return loss

    @torch.no_grad()
    def validate(self) -> float:
        last = torch.arange(self.windows, len(self.teacher.tokens))
        total = 0.0
        with self.trained.as_stored():
            for some in last.split(self.pass_windows):
                hidden = last_states(self.student, self.teacher.tokens[some])
                total += len(some) * self.teacher.divergence(self.student, some, hidden)
        return total / len(last)


def last_states(student: Skeleton, tokens: Tensor) -> Tensor:
    """What the last block gives for tokens: (b, length): (b, length, width)."""
    found: list[Tensor] = []

    def take(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = student.blocks[-1].register_forward_hook(take)
    try:
        student.model.get_decoder()(tokens.to(student.device), use_cache=False)
    finally:
        handle.remove()
    return found[0]
