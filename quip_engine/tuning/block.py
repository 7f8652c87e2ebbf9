"""Tuning within a block, while it is quantized (QuIP# section 5, step 1; arXiv 2402.04396).

    min over what is still float   sum_t |block^(x~_t) - y_t|^2 / sum_t |y_t|^2

Before each group of layers but the first is rounded, the block with all earlier groups rounded is trained to give what
the original block gives: layers that are still to be rounded, norms, biases, and the floats of packed layers. So later
layers make good what rounding the earlier ones has cost, where their errors meet, behind attention and gates, too. A
third of the windows is held out; the best state on them is taken, the one before training among them.

The paper feeds blocks with the original's states, so that all can be done at once. Here x~ is what the block will
really read, behind quantized blocks, and y what the original gives there: as layers are calibrated.

| symbol | here                                                                                   |
|--------|----------------------------------------------------------------------------------------|
| x~     | ``states``: (samples, length, width) before the block                                   |
| y      | ``outputs``: (samples, length, width) behind the original block                         |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quip_engine.activations import Activations
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.errors import QuipError
from quip_engine.tuning.continuous import Masters, TunedLinear, tune_linears
from quip_engine.tuning.loop import Schedule, Training

EPOCHS, PATIENCE = 5, 3
BATCH = 8  # windows of a step
HELD_OUT = 1 / 3
LEAST_PASSES = 3  # of which one judges
SLOWER = 0.3  # times the rate of other stages: what is trained are whole matrices; best of .1, .3 and 1


Stop = Callable[[], bool]


@dataclass(frozen=True)
class BlockTuned:
    """What a training has come to; losses on held-out windows, relative to the outputs."""

    steps: int
    before: float
    after: float
    note: str
    seconds: float


class BlockObjective:
    """The error of a block's outputs; windows in passes of a fixed size, the last ones for judging."""

    def __init__(self, block: nn.Module, index: int, activations: Activations, outputs: Tensor) -> None:
        """``activations``: before the block; it gets parameters of its own, since others may hold the original's."""
        own_parameters(block)
        self.block, self.states, self.outputs, self.places = block, activations.hidden, outputs, activations.places
        self.pass_windows, self.call = activations.full_call(index)
        passes = len(self.states) // self.pass_windows
        self.judging = max(1, round(HELD_OUT * passes)) * self.pass_windows
        self.windows = passes * self.pass_windows - self.judging
        self.scale = 1 / max(float(outputs.square().mean()), torch.finfo(torch.float32).tiny)
        self.trained: Masters
        self.masters: dict[str, Tensor] = {}
        self.rates: dict[str, float] = {}

    def aim(self, targets: dict[str, Tensor]) -> None:
        """Let layers that are still to be rounded begin with these weights: (m, n), by path."""
        for name, target in targets.items():
            weight_of(self.block.get_submodule(name)).data.copy_(target)

    def open(self, dtype: torch.dtype, rate: float) -> None:
        """Make everything that is float trainable; ``dtype``: what norms and biases are stored in."""
        if self.places:
            self.places.follow(self.outputs)
        waiting = {f"{name}.weight" for name in linear_modules(self.block)}
        tune_linears(self.block)
        self.trained = Masters(self.block, dtype)
        self.trained.dtypes |= dict.fromkeys(waiting & self.trained.dtypes.keys(), torch.float32)
        self.masters, self.rates = self.trained.tensors, self.trained.rates(SLOWER * rate)

    def close(self) -> None:
        """Put what was trained where it is stored from."""
        for name, tensor in self.trained.rounded().items():
            self.masters[name].data = tensor.float()
        for name, module in list(self.block.named_modules()):
            if isinstance(module, TunedLinear):
                self.block.set_submodule(name, module.settled())
        self.block.requires_grad_(False)

    def gradient(self, windows: Tensor, share: float) -> float:
        with torch.enable_grad():
            loss = self._loss(windows)
            (share * loss).backward()
        return float(loss.detach())

    @torch.no_grad()
    def validate(self) -> float:
        windows = torch.arange(self.windows, self.windows + self.judging)
        with self.trained.as_stored():
            losses = [float(self._loss(some)) for some in windows.split(self.pass_windows)]
        return sum(losses) / len(losses)

    def _loss(self, windows: Tensor) -> Tensor:
        error = self.call(self.block, self.states[windows]) - self.outputs[windows]
        return error.square().mean() * self.scale


def tune_block(objective: BlockObjective, dtype: torch.dtype, rate: float, seed: int, stop: Stop) -> BlockTuned:
    """Train what is float in a block and take the best; raises ``Stopped``.

    ``dtype``: what norms and biases are stored in; ``rate``: as for all stages. A training that diverges ends with the
    best before.
    """
    clock = time.perf_counter()
    objective.open(dtype, rate)
    size = objective.pass_windows
    batch = min(-(-BATCH // size) * size, objective.windows)
    epoch = max(1, objective.windows // batch)
    training = Training(objective, Schedule(EPOCHS * epoch, batch, size, epoch, PATIENCE, seed))
    note = ""
    try:
        for _ in training.run(stop, lambda _: None):
            pass
    except QuipError as error:
        if error.code != "TUNING_DIVERGED" or not training.best_masters:
            raise
        note = f"{error.message} The best state before that is taken. {error.hint}"
    finally:
        if training.best_masters:
            training.restore_best()
        objective.close()
    return BlockTuned(training.step, training.before, training.best, note, time.perf_counter() - clock)


@torch.no_grad()
def outputs_of(block: nn.Module, index: int, activations: Activations) -> Tensor:
    """What a block gives: (samples, length, width)."""
    return activations.outputs(block, index, torch.empty_like(activations.hidden))


def own_parameters(block: nn.Module) -> None:
    """Give a block parameters that it shares with nobody."""
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
