"""PV-Tuning: floats and codes of a packed model learn what the original predicts (arXiv 2405.14852).

    P step: floats by Adam, the codes as they are            (``loop``, ``end_to_end``)
    V step: codes, what they stand for as it is              (``coded``)

One gradient serves both: that of KL(original || packed) by the decoded weights goes on to the floats. So a V step costs
no pass of its own through the model, only a search for the pieces whose turn it is. What is kept is decided on held-out
windows, codes and floats together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from quip_engine import events
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.linear import QuantizedLinear
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.tuning.coded import CodedLinear
from quip_engine.tuning.continuous import Masters, tune_linears
from quip_engine.tuning.end_to_end import Distillation, embeddings, relax_signs
from quip_engine.tuning.loop import Objective, Schedule, State, Training
from quip_engine.tuning.recode import recoder_of
from quip_engine.tuning.stage import Stage
from quip_engine.tuning.student import load_student

STATE = ("codes", "buffer", "rows", "columns")  # of a layer, all that its next V step depends on


def tune_codes(stage: Stage) -> Iterator[events.Event]:
    """Train floats and codes of the finished blocks, and what is outside. Raises ``Stopped``."""
    teacher = yield from stage.teacher()
    student = load_student(stage.plan, stage.space)
    formats = relax_signs(student, stage.settings.relax_signs)
    coded = code_linears(student.model, stage.plan)
    if not coded:
        yield events.Warned("CODES_STAY", "No codebook of this model has codes that can be chosen again: only floats.")
    tune_linears(student.model)  # the rest
    masters = Masters(student.model, stage.dtype, left_out=() if stage.settings.head else embeddings(student))
    objective = Distillation(student, teacher, masters, stage.settings.rate, stage.pass_windows)
    training = yield from stage.train(objective, partial(Alternation, coded))
    codes = {f"{path}.codes": layer.codes for path, layer in coded.items()}
    yield from stage.finish(training, masters.rounded() | codes, formats)


def code_linears(model: nn.Module, plan: Plan) -> dict[str, CodedLinear]:
    """Put a ``CodedLinear`` in the place of every packed layer with a recoder; these by path, first block to last."""
    original, coded = Skeleton(Path(plan.facts.path), plan.device), {}
    for index in range(len(original.blocks)):
        for name, module in linear_modules(original.load_block(index)).items():
            path = f"{original.prefix}.{index}.{name}"
            packed = model.get_submodule(path)
            if isinstance(packed, QuantizedLinear) and recoder_of(packed.format.codebook):
                coded[path] = CodedLinear(packed, weight_of(module).detach())
                model.set_submodule(path, coded[path])
        original.release_block(index)
    return coded


class Alternation(Training):
    """A P step and a V step in each step."""

    def __init__(
        self, coded: dict[str, CodedLinear], objective: Objective, schedule: Schedule, state: State | None = None
    ) -> None:
        self.coded = coded
        self.best_codes: dict[str, Tensor] = {}
        super().__init__(objective, schedule, state)

    def advance(self) -> float:
        step, pace = self.step, self.pace(self.step)
        for layer in self.coded.values():
            layer.gradient.zero_()
        loss = super().advance()
        for layer in self.coded.values():
            layer.advance(step, pace)
        return loss

    def rehearse(self) -> None:
        for layer in self.coded.values():
            layer.rehearse()

    def restore_best(self) -> None:
        super().restore_best()
        for path, layer in self.coded.items():
            layer.take_codes(self.best_codes[path])

    def state(self) -> State:
        tensors, record = super().state()
        for path, layer in self.coded.items():
            tensors |= {f"{name}.{path}": getattr(layer, name).clone() for name in STATE}
            tensors[f"best_codes.{path}"] = self.best_codes[path]
        return tensors, record

    def _load(self, tensors: dict[str, Tensor], record: dict[str, object]) -> None:
        super()._load(tensors, record)
        for path, layer in self.coded.items():
            layer.take_codes(tensors[f"codes.{path}"])
            for name in STATE[1:]:
                getattr(layer, name).copy_(tensors[f"{name}.{path}"])
            self.best_codes[path] = tensors[f"best_codes.{path}"].to(layer.codes.device)

    def _remember(self) -> None:
        super()._remember()
        self.best_codes = {path: layer.codes.clone() for path, layer in self.coded.items()}
