"""Progressive tuning: before blocks are quantized, all that is still ahead is trained to say what the original says.

    before block k:   min over theta_k, theta_k+1, ...   KL(original || packed blocks < k, theta_k, theta_k+1, ...)

Rounding one part of a network and training the rest before the next (INQ, arXiv 1702.03044) lets every later block make
good what rounding the earlier ones has cost the predictions, with all its weights: far more than the floats of packed
layers can do, and what a regression layer by layer does not see. Trained weights are never stored: they are what is
rounded next. What blocks before k give stays as it is, so their states need not be taken again.

Windows are dealt out among the trainings, so that together they see each window once; the last ones of a share judge.
Where these find nothing better, blocks stay what they were. Blocks behind a training are corrected towards what the
trained ones give, no longer towards the original's states.

| text    | here                                                            |
|---------|-----------------------------------------------------------------|
| theta_k | ``trained``: weights of block k and after, final norm, untied head |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from quip_engine import events
from quip_engine.architecture import linear_modules
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.tuning.continuous import Masters, tune_linears
from quip_engine.tuning.end_to_end import Distillation, embeddings
from quip_engine.tuning.stage import Stage
from quip_engine.tuning.student import load_student
from quip_engine.workspace import Workspace

STAGE = "progressive"
SLOWER = 0.03  # times the rate of other stages: at .3, the same steps leave most models worse than they were
LEAST_WINDOWS = 32  # of a training: where there are fewer, several blocks are quantized between two trainings


def places(plan: Plan) -> list[int]:
    """The blocks before which there is a training."""
    if STAGE not in plan.job.tuning.stages:
        return []
    possible = max(1, len(plan.tuning_tokens) // LEAST_WINDOWS)
    return list(range(1, plan.facts.blocks, max(1, -(-(plan.facts.blocks - 1) // possible))))


def name_of(index: int) -> str:
    """Of the training before block ``index``, in events and in the workspace."""
    return f"{STAGE} {index}"


def tune_ahead(plan: Plan, space: Workspace, index: int, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Train block ``index`` and what follows, where it is the turn of that. Raises ``Stopped``."""
    if index not in (turns := places(plan)):
        return
    share = turns.index(index)
    windows = plan.tuning_tokens[share :: len(turns)]
    stage = Stage(name_of(index), plan, space, stop, tokens=windows, parts=len(turns))
    if stage.result is None:
        yield from _train(stage, index)
        yield events.PhaseChanged("quantize")
    if is_trained(space, index):
        _forget(space, turns[:share])
    stage.settle()


def is_trained(space: Workspace, index: int) -> bool:
    """Whether a training before block ``index`` has come to something."""
    kept = space.kept(name_of(index))
    return kept is not None and bool(kept.record.get("result", {}).get("taken"))


def trained(plan: Plan, space: Workspace, index: int) -> dict[str, Tensor]:
    """What the last training up to block ``index`` has made of all that follows, by name; empty where there is none."""
    for turn in reversed([turn for turn in places(plan) if turn <= index]):
        if is_trained(space, turn):
            kept = space.kept(name_of(turn))
            assert kept is not None
            return kept.tensors()
    return {}


def _train(stage: Stage, index: int) -> Iterator[events.Event]:
    teacher = yield from stage.teacher()
    student = load_student(stage.plan, stage.space, trained(stage.plan, stage.space, index))
    tune_linears(student.model)
    masters = Masters(student.model, stage.dtype, left_out=_settled(student, index, head=stage.settings.head))
    masters.dtypes |= dict.fromkeys(_waiting(student, index) & masters.dtypes.keys(), torch.float32)
    objective = Distillation(student, teacher, masters, SLOWER * stage.settings.rate, stage.pass_windows)
    training = yield from stage.train(objective)
    yield from stage.finish(training, masters.rounded(), {})


def _settled(student: Skeleton, index: int, *, head: bool) -> list[int]:
    """Ids of the parameters that stay: what the states before block ``index`` come from, and a head that is packed."""
    parameters = [*student.model.get_input_embeddings().parameters(), *student.blocks[:index].parameters()]
    return [id(p) for p in parameters] + ([] if head else embeddings(student))


def _waiting(student: Skeleton, index: int) -> set[str]:
    """Names of the weights that are still to be rounded."""
    return {
        f"{student.prefix}.{k}.{name}.weight"
        for k in range(index, len(student.blocks))
        for name in linear_modules(student.blocks[k])
    }


def _forget(space: Workspace, turns: list[int]) -> None:
    """Give back the room of trainings that a later one went on from; what came of them stays."""
    for turn in turns:
        kept = space.kept(name_of(turn))
        if kept is not None and kept.path is not None:
            space.keep(name_of(turn), record=kept.record)
