r"""Bits across layers: more where an error costs more, and together what was asked, to the byte where rates allow.

    minimise  sum_l N_l w_l 4^-b_l      subject to  sum_l bytes_l(b_l) <= what all layers may take

| rule        | w_l, what an error of a layer of N_l weights costs                                                |
|-------------|---------------------------------------------------------------------------------------------------|
| sensitivity | 2^(alpha v_l): v_l measured (``sensitivity``), damped by alpha                                    |
| trace       | the mean trace of its Hessian, and only 2 or 4 bits to choose from (APTQ, arXiv 2402.14866)       |
| uniform     | all alike                                                                                         |

For free b_l the solution is b_l = log4 w_l + const. Layers are not independent, and an error that is no longer small
costs more than its square, so that with alpha = 1 the least of the sum is not the least of the model's loss: alpha
damps, and no layer gets less than LOWEST or more than HIGHEST times the bits of the whole. Where layers can have any
rate, what is left of the budget goes to the one that gains most by it.

| text  | here                       |
|-------|----------------------------|
| alpha | ``Goal.alpha``             |
| w     | ``worth``                  |
| bytes | ``Prices.cost``, in bits   |
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.rates import allocate
from quip_engine.probe.facts import LinearLayer

LOWEST, HIGHEST = 0.6, 2.0
TRACE_BITS = (2, 4)  # APTQ's two


@dataclass(frozen=True)
class Goal:
    """What is asked of all layers together."""

    rule: str  # "sensitivity", "trace" or "uniform"
    alpha: float
    rates: tuple[float, ...]  # that a layer can have, rising
    any_rate: bool  # or any between them
    budget: int  # bits of all layers, in the measure of ``cost``
    cost: Callable[[LinearLayer, float], int]  # bits that a layer takes at a rate
    fixed: Mapping[str, float]  # layers by module path that have their rate from elsewhere


def spread(goal: Goal, layers: Sequence[LinearLayer], values: Mapping[str, float]) -> dict[str, float]:
    """Bits per weight of each layer by module path: together the budget, or as little below as rates allow.

    ``values``: log2 of what an error of a layer costs; a layer without one, which no gradient reached, gets the least.
    The lowest rate must be affordable for all.
    """
    budget = goal.budget - sum(goal.cost(layer, goal.fixed[layer.name]) for layer in layers if layer.name in goal.fixed)
    free = [layer for layer in layers if layer.name not in goal.fixed]
    if not free:
        return dict(goal.fixed)
    if goal.rule == "uniform" and goal.any_rate:
        return dict.fromkeys((layer.name for layer in free), mean_rate(goal, free, budget)) | dict(goal.fixed)
    menu = _menu(goal, free, budget)
    cost = torch.tensor([[goal.cost(layer, rate) for rate in menu] for layer in free])
    sizes = torch.tensor([math.prod(layer.shape) for layer in free])
    worth = _worth(goal, free, values) * sizes
    distortion = torch.tensor([4.0**-rate for rate in menu], dtype=torch.float64)
    chosen = allocate(worth, distortion, cost, max(budget, int(cost[:, 0].sum()))).tolist()
    bits = {layer.name: menu[k] for layer, k in zip(free, chosen, strict=True)}
    if goal.any_rate:
        left = budget - sum(int(row[k]) for row, k in zip(cost, chosen, strict=True))
        _give(bits, free, worth, left, menu[-1])
    return bits | dict(goal.fixed)


def mean_rate(goal: Goal, layers: Sequence[LinearLayer], budget: int) -> float:
    """The rate, between those offered, at which layers that all have it take ``budget``; the nearest offered one."""
    costs = [sum(goal.cost(layer, rate) for layer in layers) for rate in goal.rates]
    k = bisect_right(costs, budget)
    if k in (0, len(costs)):
        return goal.rates[min(k, len(costs) - 1)]
    share = (budget - costs[k - 1]) / (costs[k] - costs[k - 1])
    return goal.rates[k - 1] + share * (goal.rates[k] - goal.rates[k - 1])


def bits_map(layers: Sequence[LinearLayer], bits: Mapping[str, float]) -> tuple[list[str], list[list[float | None]]]:
    """The bits of each layer as a map: names of the projections (columns), and their bits in each block (rows).

    None: a block has no such projection, or its bits are not known.
    """
    projections = list(dict.fromkeys(layer.projection for layer in layers))
    rows: list[list[float | None]] = [
        [None] * len(projections) for _ in range(1 + max(layer.block for layer in layers))
    ]
    for layer in layers:
        rows[layer.block][projections.index(layer.projection)] = bits.get(layer.name)
    return projections, rows


def _menu(goal: Goal, layers: Sequence[LinearLayer], budget: int) -> list[float]:
    """The rates that a layer may get, by its bounds."""
    if goal.rule == "trace":
        return [rate for rate in goal.rates if rate in TRACE_BITS]
    mean = mean_rate(goal, layers, budget)
    if goal.rule == "uniform":
        below = max(bisect_right(goal.rates, mean) - 1, 0)
        return list(goal.rates[below : below + 2])
    lowest = max(bisect_right(goal.rates, LOWEST * mean) - 1, 0)
    return [rate for rate in goal.rates[lowest:] if rate <= max(HIGHEST * mean, goal.rates[lowest])]


def _worth(goal: Goal, layers: Sequence[LinearLayer], values: Mapping[str, float]) -> Tensor:
    """w: (layers,) float64, at most 1."""
    if goal.rule == "uniform":
        return torch.ones(len(layers), dtype=torch.float64)
    known = [values.get(layer.name, -math.inf) for layer in layers]
    top = max((v for v in known if v > -math.inf), default=0.0)
    return torch.tensor([2 ** (goal.alpha * (v - top)) for v in known], dtype=torch.float64)


def _give(bits: dict[str, float], layers: Sequence[LinearLayer], worth: Tensor, left: int, highest: float) -> None:
    """Let layers have ``left`` bits more, those first that gain most by them."""
    gains = {layer.name: float(w) * 4.0 ** -bits[layer.name] for layer, w in zip(layers, worth, strict=True)}
    for layer in sorted(layers, key=lambda layer: -gains[layer.name] / math.prod(layer.shape)):
        weights = math.prod(layer.shape)
        more = min(left, math.floor((highest - bits[layer.name]) * weights)) // 8 * 8
        if more > 0:
            bits[layer.name] += more / weights
            left -= more
