"""End-to-end tuning: the packed model learns to predict what the original predicts (QuIP# section 5, step 2).

    min over masters   mean over positions of  KL(original || packed)

Soft labels, the original's whole distribution at every position, from calibration text; codes stay as they are. Of the
windows the last are held out, and it is their KL that decides what is kept: a tuned model goes on only where it is
better than the one before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from quip_engine import events
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.skeleton import Skeleton
from quip_engine.tuning.continuous import Masters, tune_linears
from quip_engine.tuning.signs import relaxed
from quip_engine.tuning.stage import Stage
from quip_engine.tuning.student import load_student
from quip_engine.tuning.teacher import Teacher

STAGE = "end-to-end"


def tune_end_to_end(stage: Stage) -> Iterator[events.Event]:
    """Train the floats of the finished blocks and of what is outside. Raises ``Stopped``."""
    teacher = yield from stage.teacher()
    student = load_student(stage.plan, stage.space)
    formats = relax_signs(student, stage.settings.relax_signs)
    tune_linears(student.model)
    masters = Masters(student.model, stage.dtype, left_out=() if stage.settings.head else embeddings(student))
    objective = Distillation(student, teacher, masters, stage.settings.rate, stage.pass_windows)
    training = yield from stage.train(objective)
    yield from stage.finish(training, masters.rounded(), formats)


class Distillation:
    """KL to the original, by the windows of a teacher; the first ones are trained on, the last ones judge."""

    def __init__(self, student: Skeleton, teacher: Teacher, masters: Masters, rate: float, pass_windows: int) -> None:
        self.student, self.teacher, self.trained = student, teacher, masters
        self.masters, self.rates = masters.tensors, masters.rates(rate)
        self.windows, self.pass_windows = len(teacher.tokens) - teacher.held_out, pass_windows

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


def relax_signs(student: Skeleton, relax: str) -> dict[str, LayerFormat]:
    """Give layers of a model real numbers for signs; the new formats by module path."""
    formats = {}
    for name, module in list(student.model.named_modules()):
        if isinstance(module, QuantizedLinear) and (made := relaxed(module, relax)):
            student.model.set_submodule(name, made)
            formats[name] = made.format
    return formats


def embeddings(student: Skeleton) -> list[int]:
    """Ids of the parameters of embeddings and head."""
    ends = (student.model.get_input_embeddings(), student.model.get_output_embeddings())
    return [id(p) for module in ends if module is not None for p in module.parameters()]
