"""A run rehearsed on few windows: its blocks with simulated rounding, and a text that goes through them beside it.

    whole    all blocks, each reading what those before it give
    parts    S of B blocks, each alone in the original:    c_b, interpolated over b
             and all S together:                           k = KL / sum_S c_b
             KL = (1 + (k - 1) (B - 1) / (S - 1)) sum_B c_b

    few windows    n of the run's N for calibration:       KL_n = K + c / n
             KL_N = (1 - (r - 1) (1 - n / N)) KL_n         r = KL_(n/2) / KL_n

The last line of parts counts what pairs of blocks do to each other as alike for all pairs. Hessians of few windows
explain these windows too well; r is taken at one size and holds for all. Everything but the search of codewords is
that of ``pipeline``. How many calibration windows there are, and whether the whole model or parts of it are rehearsed,
follows from what one block takes on this machine.

| symbol | here                                      |
|--------|-------------------------------------------|
| n, N   | ``len(plan.tokens)``, ``asked``           |
| c_b    | rows that ``_over_depth`` is given        |
| S, B   | ``len(blocks)``, ``depth``                |
| k      | from ``together`` and ``alone``           |
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quip_engine.activations import Activations, predictions
from quip_engine.block_work import BlockWork, Counts
from quip_engine.estimate import output_bytes
from quip_engine.evaluate import kl_rows
from quip_engine.pipeline import allocation
from quip_engine.plan import Plan
from quip_engine.sensitivity import measure
from quip_engine.simulation import simulated
from quip_engine.skeleton import Skeleton
from quip_engine.targets import settle
from quip_engine.workspace import Workspace

LEAST_WINDOWS = 16  # of calibration
LEAST_SIZES = 4  # that there should be time for; half the windows count as one
PASSES = {"original": 3, "corrected": 8}  # forward passes of calibration windows that a size takes, about, by targets


@dataclass(frozen=True)
class Cost:
    """What a model costs beside the original, window by window: (windows,) float64 each."""

    kl: Tensor
    increase: Tensor  # of -log p


class _Following(Skeleton):
    """Its blocks take the text along before they go."""

    text: Activations

    def release_block(self, index: int) -> None:
        self.text.advance(self.blocks[index], index)
        super().release_block(index)


class Rehearsal:
    """A plan, a text and the states of both in front of the blocks that are simulated."""

    def __init__(self, plan: Plan, text: Tensor, space: Workspace, seconds: float = math.inf) -> None:
        """text: (windows, seqlen). ``seconds``: about what there is for all that is asked later."""
        self.text, self.space, self.depth = text, space, plan.facts.blocks
        self.outer = Skeleton(Path(plan.facts.path), plan.device)  # embeddings and head; never a block
        self.outer.load_outside()
        self.judged = Activations(self.outer, text)
        self.original, window = self._original_states()
        self.asked = len(plan.tokens)
        affordable = seconds / 2 / (LEAST_SIZES * PASSES[plan.recipe.targets] * self.depth * window)
        self.plan = replace(plan, tokens=plan.tokens[: max(LEAST_WINDOWS, int(min(affordable, self.asked)))])
        self.calibration = Activations(self.outer, self.plan.tokens)
        self.states = {0: (self.calibration.hidden.clone(), self.judged.hidden.clone())}
        self.weighted, self.parts = self.plan.recipe.weighted, False

    def weigh(self, sizes: Sequence[float]) -> None:
        """Measure what errors cost, where the recipe or one of the sizes asks for it."""
        if self.weighted or any(self._sized(bits, self.plan.job.seed).target.measured for bits in sizes):
            for _ in measure(self.plan, self.space, _never):
                pass

    def choose_blocks(self, seconds: float) -> None:
        """Take the whole model or some blocks, by what the first takes at the size of the plan."""
        started = time.monotonic()
        self._through(self._sized(self.plan.job.recipe.bits, self.plan.job.seed), [0])
        possible = int(seconds / max(time.monotonic() - started, 1e-9))  # blocks, for all sizes
        if possible < self.depth:
            self.take_parts(max(2, possible // (2 * LEAST_SIZES)))

    def take_parts(self, count: int) -> None:
        """Simulate only so many blocks, two at least, spread evenly over the depth."""
        wanted = set(np.linspace(0, self.depth - 1, min(count, self.depth)).round().astype(int).tolist())
        skeleton = _Following(self.outer.folder, self.outer.device)
        pairs = zip((self.calibration, self.judged), self.states.pop(0), strict=True)
        calibration, text = (start.twin(hidden) for start, hidden in pairs)
        skeleton.text = text
        for index in range(max(wanted) + 1):
            if index in wanted:
                self.states[index] = calibration.hidden.clone(), text.hidden.clone()
            calibration.advance(skeleton.load_block(index), index)
            skeleton.release_block(index)
        self.parts = True

    @property
    def blocks(self) -> list[int]:
        """Those that are simulated."""
        return list(self.states) if self.parts else list(range(self.depth))

    def cost(self, bits: float, seed: int) -> Cost:
        """Of the whole model at a size, with the noise of a seed."""
        plan = self._sized(bits, seed)
        together = self._cost(self._through(plan, self.blocks))
        if not self.parts:
            return together
        alone = [self._cost(self._through(plan, [block])) for block in self.blocks]
        kl = torch.stack([one.kl for one in alone])
        increase = torch.stack([one.increase for one in alone])
        pairs = (self.depth - 1) / (len(alone) - 1)
        grown = 1 + pairs * max(float(together.kl.mean() / kl.sum(0).mean().clamp_min(1e-12)) - 1, 0.0)
        return Cost(grown * self._over_depth(kl), grown * self._over_depth(increase))

    def more_text(self, bits: float, cost: Cost, space: Workspace) -> float:
        """What the windows that a run has beyond those here make of its KL: a factor. ``cost``: here, of the size.

        ``space``: an empty one.
        """
        windows = len(self.plan.tokens)
        if windows == self.asked or windows < 2:
            return 1.0
        half = Rehearsal(replace(self.plan, tokens=self.plan.tokens[: windows // 2]), self.text, space)
        half.weigh([bits])
        if self.parts:
            half.take_parts(len(self.blocks))
        ratio = float(half.cost(bits, self.plan.job.seed).kl.mean() / cost.kl.mean().clamp_min(1e-12))
        return 1 - (min(max(ratio, 1.0), 2.0) - 1) * (1 - windows / self.asked)

    def bytes(self, bits: float) -> int:
        """Of the finished folder at a size."""
        target = settle(replace(self.plan.job.recipe, bits=bits), self.plan.job.budget, self.plan.facts)
        return output_bytes(self.plan.facts, target.recipe, target.weight_bytes)

    def _over_depth(self, rows: Tensor) -> Tensor:
        """The sum over all blocks of what some of them cost: (blocks, windows), interpolated: (windows,)."""
        all_blocks, known = np.arange(self.depth), list(self.states)
        return torch.stack([torch.tensor(np.interp(all_blocks, known, column.numpy()).sum()) for column in rows.T])

    def _sized(self, bits: float, seed: int) -> Plan:
        """The plan with simulated parts, for other bits."""
        job = replace(self.plan.job, recipe=replace(self.plan.job.recipe, bits=bits), seed=seed)
        target = settle(job.recipe, job.budget, self.plan.facts)
        return replace(self.plan, job=job, recipe=simulated(target.recipe), target=target)

    def _through(self, plan: Plan, blocks: list[int]) -> Tensor:
        """States of the text behind a model in which these blocks are simulated, the others the original's."""
        skeleton = _Following(self.outer.folder, self.outer.device)
        pairs = zip((self.calibration, self.judged), self.states[blocks[0]], strict=True)
        calibration, skeleton.text = (start.twin(hidden.clone()) for start, hidden in pairs)
        original = calibration.twin() if plan.recipe.targets == "corrected" else None
        recipes = {name: simulated(recipe) for name, recipe in allocation(plan, self.space).recipes.items()}
        for index in range(blocks[0], self.depth):
            if index in blocks:
                known = self.space.sensitivities(index) if self.weighted else {}
                counts = Counts(known, recipes, plan.recipe.mixing)
                for _ in BlockWork(plan, skeleton, index, _never, counts, finished=0).run(calibration, original):
                    pass
                continue
            block = skeleton.load_block(index)
            for states in (calibration, original) if index < blocks[-1] else ():
                if states:
                    states.advance(block, index)
            skeleton.release_block(index)
        return skeleton.text.hidden

    def _original_states(self) -> tuple[Tensor, float]:
        """Of the text behind the original, and seconds that a window takes in a block."""
        skeleton = _Following(self.outer.folder, self.outer.device)
        skeleton.text, spent = self.judged.twin(), 0.0
        for index in range(self.depth):
            skeleton.load_block(index)
            started = time.monotonic()
            skeleton.release_block(index)
            spent += time.monotonic() - started
        return skeleton.text.hidden, max(spent, 1e-9) / self.depth / len(self.text)

    @torch.no_grad()
    def _cost(self, hidden: Tensor) -> Cost:
        """Of a model that has these states: (windows, seqlen, width) behind its last block."""
        kl, increase = [], []
        for place, window in enumerate(self.text.split(1)):
            here = slice(place, place + 1)
            log_p, log_q = (
                predictions(self.outer, window, states[here])[0, :-1].log_softmax(-1).cpu()
                for states in (self.original, hidden)
            )
            kl.append(kl_rows(log_p, log_q).mean())
            change = log_p.gather(1, window[0, 1:, None]) - log_q.gather(1, window[0, 1:, None])
            increase.append(change.double().mean())
        return Cost(torch.stack(kl), torch.stack(increase))


def _never() -> bool:
    return False
