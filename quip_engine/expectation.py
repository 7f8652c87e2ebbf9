"""What a size will cost, told before the run: KL to the original and perplexity, where rounding is only simulated.

A run is rehearsed (``rehearsal``) at as many sizes, and with as many seeds of the noise, as there is time for. Sizes
left out lie on lines of log KL over the bits between the others.

The error of a figure is that over windows of the text, that over seeds where there was more than one, what simulation
is wrong by itself (WRONG_BY), and a third of what more calibration text is said to save, as independent of each other.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from quip_engine.config import BudgetConfig, JobConfig, TuningConfig, check_number
from quip_engine.errors import fail
from quip_engine.evaluate import Estimate
from quip_engine.methods.mixing import offered_rates
from quip_engine.pipeline import worths
from quip_engine.plan import make_plan
from quip_engine.rehearsal import Cost, Rehearsal
from quip_engine.workspace import Workspace

SIZES = (1.5, 2, 2.5, 3, 3.5, 4, 5)  # bits per weight
MOST_SEEDS = 3
IN_ANY_CASE = 3  # sizes that are rehearsed, however long it takes
# Of the KL. As a whole: 21 runs of four small models with four methods came within 16 %, rms 6 %. In parts: 2 of 5
# blocks gave .32 for .38 in one model and .06 for .27 in another, whose blocks spoil each other's inputs.
WRONG_BY = {False: 0.1, True: 0.75}


@dataclass(frozen=True)
class Point:
    """What to expect of one size. Errors are standard errors."""

    bits: float
    bytes: int  # of the folder
    kl: float  # nats per token
    kl_error: float
    ratio: float  # of the perplexities
    ratio_error: float
    seeds: int  # 0: between two that were simulated


@dataclass(frozen=True)
class Expectation:
    """A curve over the sizes, and what it rests on."""

    method: str
    points: list[Point]
    blocks: list[int]  # simulated; where not all, the rest follows from them
    depth: int
    calibration: int  # windows
    windows: int  # of the text
    seconds: float
    values: dict[str, float]  # of layers by module path, where they were measured: as ``targets`` takes them
    more_text: float = 1.0  # the factor for calibration windows that only the run has; the points count it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Expectation:
        return cls(**{**record, "points": [Point(**point) for point in record["points"]]})


def compare(expected: Sequence[Point], bits: float, kl: float, kl_error: float | None = None) -> dict[str, Any]:
    """What came of a run of so many bits beside what was expected; ``expected``: rising in bits.

    ``off``: by which share of what came the expectation is too high; ``errors``: the same in standard errors.
    """
    point = between(expected, bits)
    error = math.hypot(point.kl_error, kl_error or 0.0)
    off = point.kl - kl
    return {"expected": asdict(point), "kl": kl, "off": off / max(kl, 1e-12), "errors": off / max(error, 1e-12)}


def possible_sizes(job: JobConfig, sizes: Sequence[float]) -> list[float]:
    """Those of the sizes that a method has, rising. Raises ``BAD_SETTING`` where it has none of them."""
    for bits in sizes:
        check_number("bits", bits, 0.1, 16)
    rates = offered_rates(job.recipe)
    found = sorted({bits for bits in sizes if rates[0] <= bits <= rates[-1]})
    if not found:
        listed = ", ".join(f"{bits:g}" for bits in sizes)
        allowed = f"{rates[0]:g} to {rates[-1]:g} with {job.recipe.method}"
        fail("BAD_SETTING", field="bits", value=listed, allowed=allowed)
    return found


def expect(
    job: JobConfig,
    text: Tensor,
    sizes: Sequence[float] = SIZES,
    minutes: float = 1.0,
    progress: Callable[[str], None] = lambda words: None,
) -> Expectation:
    """Expect what ``job`` will cost at each size. text: (windows, seqlen) tokens to judge by, two windows at least.

    ``job.out``, a size asked in bytes, packed embeddings and tuning play no part in it. ``minutes``: about what it may
    take; IN_ANY_CASE sizes are rehearsed with LEAST_WINDOWS, that of ``job`` among them. Raises what a run does before
    its first block.
    """
    started = time.monotonic()
    end = started + 60 * minutes
    sizes = possible_sizes(job, sizes)
    if len(text) < 2:
        fail("EVAL_EMPTY", source="The text", tokens=text.numel(), seqlen=2 * text.shape[1])
    order = list(_ends_first(sizes, job.recipe.bits))
    budget = BudgetConfig(rule=job.budget.rule, layers=job.budget.layers)
    job = replace(job, recipe=replace(job.recipe, bits=sizes[-1]), tuning=TuningConfig(), budget=budget)
    plan = make_plan(job, resumed=True)
    with TemporaryDirectory(prefix="quip-expect-") as folder, Workspace(Path(folder) / "work") as space:
        progress("what the original predicts")
        rehearsal = Rehearsal(plan, text, space, end - time.monotonic())
        rehearsal.weigh(sizes)
        rehearsal.choose_blocks(end - time.monotonic())
        progress(f"{sizes[-1]:g} bits")
        first = rehearsal.cost(sizes[-1], job.seed)
        progress("what more calibration text is worth")
        with Workspace(Path(folder) / "half") as other:
            more_text = rehearsal.more_text(sizes[-1], first, other)
        costs = _costs(rehearsal, order, end, progress, {sizes[-1]: [first]})
        points = {bits: _point(rehearsal, bits, found, more_text) for bits, found in costs.items()}
        return Expectation(
            method=job.recipe.method,
            points=[points.get(bits) or _left_out(rehearsal, bits, points) for bits in sizes],
            blocks=rehearsal.blocks,
            depth=rehearsal.depth,
            calibration=len(rehearsal.plan.tokens),
            windows=len(text),
            seconds=time.monotonic() - started,
            values=worths(rehearsal.plan, space),
            more_text=more_text,
        )


def _costs(
    rehearsal: Rehearsal,
    order: Sequence[float],
    end: float,
    progress: Callable[[str], None],
    costs: dict[float, list[Cost]],
) -> dict[float, list[Cost]]:
    """By size, one for each seed, while there is time; sizes in their order.

    ``costs``: those that are known.
    """
    longest = 0.0
    for seed in range(MOST_SEEDS):
        for bits in order:
            if len(costs.get(bits, ())) > seed:
                continue
            clock = time.monotonic()
            if len(costs) >= min(IN_ANY_CASE, len(order)) and clock + longest > end:
                return costs
            progress(f"{bits:g} bits" + (f", seed {seed}" if seed else ""))
            costs.setdefault(bits, []).append(rehearsal.cost(bits, rehearsal.plan.job.seed + seed))
            longest = max(longest, time.monotonic() - clock)
    return costs


def _ends_first(sizes: Sequence[float], asked: float) -> Iterator[float]:
    """Both ends, the one that is asked for, then the middle of what is left, and so on."""
    known = [0, len(sizes) - 1] if len(sizes) > 1 else [0]
    yield from (sizes[k] for k in known)
    if asked in sizes[1:-1]:
        known.insert(1, sizes.index(asked))
        yield asked
    while len(known) < len(sizes):
        low, high = max(pairwise(known), key=lambda gap: gap[1] - gap[0])
        known = sorted([*known, (low + high) // 2])
        yield sizes[(low + high) // 2]


def _point(rehearsal: Rehearsal, bits: float, costs: Sequence[Cost], more_text: float) -> Point:
    """The mean over seeds and windows, with its error."""
    kl, kl_error = _mean([more_text * cost.kl for cost in costs])
    increase, increase_error = _mean([more_text * cost.increase for cost in costs])
    wrong = math.hypot(WRONG_BY[rehearsal.parts], (1 - more_text) / 3)
    ratio = math.exp(min(increase, 700.0))
    return Point(
        bits=bits,
        bytes=rehearsal.bytes(bits),
        kl=kl,
        kl_error=math.hypot(kl_error, wrong * kl),
        ratio=ratio,
        ratio_error=ratio * math.hypot(increase_error, wrong * increase),
        seeds=len(costs),
    )


def _mean(samples: Sequence[Tensor]) -> tuple[float, float]:
    """Of (windows,) for each seed, and its standard error over windows and seeds."""
    windows = Estimate.of(torch.stack(list(samples)).mean(0).tolist())
    seeds = Estimate.of([float(sample.mean()) for sample in samples])
    return windows.value, math.hypot(windows.error or 0.0, seeds.error or 0.0)


def _left_out(rehearsal: Rehearsal, bits: float, points: dict[float, Point]) -> Point:
    """A size between two that were rehearsed."""
    return replace(between([points[size] for size in sorted(points)], bits), bytes=rehearsal.bytes(bits))


def between(points: Sequence[Point], bits: float) -> Point:
    """The point of so many bits on the curve of points, rising in bits; beyond its ends, these."""
    place = bisect_left([point.bits for point in points], bits)
    low, high = points[max(place - 1, 0)], points[min(place, len(points) - 1)]
    if high.bits == bits or low is high:
        return high
    share = (bits - low.bits) / (high.bits - low.bits)

    def mixed(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(a) + share * math.log(b)) if min(a, b) > 0 else max(a, b)

    return Point(
        bits=bits,
        bytes=round((1 - share) * low.bytes + share * high.bytes),
        kl=mixed(low.kl, high.kl),
        kl_error=mixed(low.kl_error, high.kl_error),
        ratio=1 + mixed(low.ratio - 1, high.ratio - 1),  # what is lost goes down like the KL
        ratio_error=mixed(low.ratio_error, high.ratio_error),
        seeds=0,
    )
