"""What a run is asked to meet: mean bits, a size, or a memory to fit into; and what each layer gets for it.

    weight files = what is in no layer + sum_l stored_l(b_l)                memory = ``footprint.memory_with`` of them

Settled before a weight is read: whether it can be met at all, by which rule (``spread``), from which rates. Who gets
how much is known once it is measured what layers are worth (``allocated``). A size is met to some bytes where layers
take any rate (``prices``), else as nearly as whole layers allow; never above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from quip_engine.config import BudgetConfig, RecipeConfig
from quip_engine.embedding import embedding_format
from quip_engine.errors import fail
from quip_engine.footprint import memory_with, weights_within
from quip_engine.layer import LayerFormat
from quip_engine.methods.mixing import offered_rates
from quip_engine.methods.registry import Recipe, listed_bits
from quip_engine.prices import Prices
from quip_engine.probe import ModelFacts
from quip_engine.probe.settings import ENCODERS
from quip_engine.spread import TRACE_BITS, Goal, mean_rate, spread

ALPHA = 0.75  # of methods that have none of their own
ROUNDS = 5  # of meeting a size: what headers take is known once all layers have their bits
TOLERANCE = 1e-3  # of a size, that the largest possible may stay below it


@dataclass(frozen=True)
class Allocation:
    """What each layer gets, by module path. Empty: all have the recipe of the run."""

    rule: str
    bits: dict[str, float]
    recipes: dict[str, Recipe]
    asked: int  # bytes of the weight files; 0: not asked
    expected: int

    def to_json(self) -> dict[str, Any]:
        return {"rule": self.rule, "asked_bytes": self.asked, "expected_bytes": self.expected, "bits": self.bits}


@dataclass(frozen=True)
class Target:
    """A settled target."""

    prices: Prices
    budget: BudgetConfig
    rule: str  # as ``spread.Goal``; empty: all layers have the recipe of the run
    alpha: float
    fixed: Mapping[str, float]  # bits by module path that are given
    size: int  # bytes of the weight files; 0: not asked

    @property
    def measured(self) -> bool:
        """Whether it must be known what layers are worth."""
        return self.rule in ("sensitivity", "trace")

    @property
    def embeddings(self) -> LayerFormat | None:
        """How embeddings and head are stored; None: as they are."""
        return self.prices.embeddings

    @cached_property
    def weight_bytes(self) -> int:
        """Of the finished model, about; 0 where all its layers and embeddings are as the recipe alone has them."""
        if self.size or not (self.rule or self.embeddings):
            return self.size
        lower = max(rate for rate in self._goal.rates if rate <= self.bits)
        bits = {name: self.fixed.get(name, lower) for name in self.prices.layers}
        return self.prices.total(bits) + round((self.bits - lower) * self.prices.weights / 8)

    @property
    def recipe(self) -> Recipe:
        """That of layers with the mean bits, or with fewer."""
        return self.prices.at(max(r for r in self.prices.rates if r <= self.bits)) if self.size else self.prices.recipe

    @cached_property
    def bits(self) -> float:
        """Mean bits per weight of the layers, as the method names them."""
        layers = self.prices.layers
        if self.rule and len(self.fixed) == len(layers):
            bits = sum(rate * math.prod(layers[name].shape) for name, rate in self.fixed.items()) / self.prices.weights
        elif self.size:
            bits = mean_rate(self._goal, list(layers.values()), self._goal.budget)
        else:
            return self.prices.config.bits
        return round(bits, 3)

    def allocated(self, values: Mapping[str, float]) -> Allocation:
        """What each layer gets. ``values``: log2 of what an error of a layer costs, by module path."""
        if not self.rule:
            return Allocation("", {}, {}, 0, 0)
        goal, layers = self._goal, list(self.prices.layers.values())
        bits = spread(goal, layers, values)
        for _ in range(ROUNDS if self.size else 0):
            left = self.size - self.prices.spare - self.prices.total(bits)
            if left == 0 or (left > 0 and not goal.any_rate):
                break
            goal = replace(goal, budget=goal.budget + 8 * left)
            bits = spread(goal, layers, values)
        recipe = self.prices.fitted if self.size else lambda _, rate: self.prices.at(rate)
        recipes = {name: recipe(name, rate) for name, rate in bits.items()}
        return Allocation(self.rule, bits, recipes, self.size, self.prices.total(bits))

    @cached_property
    def _goal(self) -> Goal:
        prices, stored = self.prices, bool(self.size)
        rates = tuple(rate for rate in prices.rates if rate in TRACE_BITS) if self.rule == "trace" else prices.rates
        if stored:
            lowest = {name: self.fixed.get(name, rates[0]) for name in prices.layers}
            layers = sum(prices.stored(prices.layers[name], rate) for name, rate in lowest.items())
            budget = layers + 8 * (self.size - prices.spare - prices.total(lowest))
        else:
            budget = math.floor(prices.config.bits * prices.weights + 1e-6)
        cost = prices.stored if stored else prices.named
        return Goal(self.rule, self.alpha, rates, prices.any_rate and self.rule != "trace", budget, cost, self.fixed)

    @property
    def _ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """All layers at the lowest rate, and at the highest."""
        rates = self._goal.rates
        least, most = ({name: self.fixed.get(name, rates[end]) for name in self.prices.layers} for end in (0, -1))
        return least, most

    @property
    def reach(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest weight files."""
        least, most = self._ends
        return self.prices.total(least) + self.prices.spare, self.prices.total(most)

    @property
    def reached(self) -> bool:
        """Whether the size that is asked can be met."""
        low, high = self.reach
        return low <= self.size <= (1 + TOLERANCE) * high

    def check(self) -> None:
        """Refuse what cannot be met, and tell the nearest that can. Raises ``BAD_TARGET``."""
        prices, goal = self.prices, self._goal
        least, most = self._ends
        if self.size:
            low, high = self.reach
            if not self.reached:
                self._refuse_size(low, high)
        elif self.rule and len(self.fixed) < len(prices.layers):
            low, high = (sum(prices.named(prices.layers[n], b) for n, b in bits.items()) for bits in (least, most))
            if not low <= goal.budget <= high:
                self._refuse_bits(low, high, goal.budget)

    def _refuse_size(self, low: int, high: int) -> NoReturn:
        budget, small = self.budget, self.size < low
        asked, nearest = f"A size of {_megabytes(self.size)}", low if small else high
        if budget.fits:
            asked = f"Fitting into {_megabytes(budget.fits)} with {budget.context} tokens"
            nearest = memory_with(Path(self.prices.facts.path), nearest, budget.context)
        reason = f"with {self.prices.config.method} the weight files take {_megabytes(low)} to {_megabytes(high)}"
        less = "; embeddings in 8, 6 or 4 bits take less" if small and not budget.embeddings else ""
        remedy = f"The {'smallest' if small else 'largest'} that works: {_megabytes(nearest)}{less}."
        fail("BAD_TARGET", asked=asked, reason=reason, remedy=remedy)

    def _refuse_bits(self, low: int, high: int, budget: int) -> NoReturn:
        weights = self.prices.weights
        reason = f"layers can take {low / weights:.4g} to {high / weights:.4g} bits with {self.prices.config.method}"
        reason += " and the bits given by hand" if self.fixed else ""
        nearest = f"The least that works: {low / weights:.4g}" if budget < low else f"The most: {high / weights:.4g}"
        fail("BAD_TARGET", asked=f"A mean of {budget / weights:.4g} bits", reason=reason, remedy=f"{nearest} bits.")


def settle(config: RecipeConfig, budget: BudgetConfig, facts: ModelFacts) -> Target:
    """The target of a job. Raises what ``target_of`` does, and ``BAD_TARGET`` where it cannot be met."""
    target = target_of(config, budget, facts)
    target.check()
    return target


def target_of(config: RecipeConfig, budget: BudgetConfig, facts: ModelFacts) -> Target:
    """What is asked, whether it can be met or not. What layers are worth can be measured where a model predicts, which
    encoders do not.

    Raises what ``resolve`` does, and ``BAD_SETTING`` for layers or rates that do not exist.
    """
    size = budget.size
    if budget.fits:
        size = max(1, weights_within(Path(facts.path), budget.fits, budget.context))
    if size:  # the bits of the recipe are not asked
        config = replace(config, bits=min(offered_rates(config), key=lambda rate: abs(rate - config.bits)))
    prices = Prices(config, facts, embedding_format(budget.embeddings) if budget.embeddings else None)
    fixed, rule = _fixed(prices, budget.layers), _rule(prices, budget, predicts=facts.model_type not in ENCODERS)
    if budget.fits:  # what is left over is nobody's
        size = min(size, prices.total({name: fixed.get(name, prices.rates[-1]) for name in prices.layers}))
    if rule == "manual":
        fixed = fixed if size else {name: fixed.get(name, config.bits) for name in prices.layers}
        rule = "uniform"
    alpha = 1.0 if rule == "trace" else prices.recipe.spread or ALPHA
    return Target(prices, budget, rule, alpha, fixed, size)


def _rule(prices: Prices, budget: BudgetConfig, *, predicts: bool) -> str:
    """The rule that is meant; empty where all layers can have the same recipe."""
    config, rule = prices.config, budget.rule
    if rule == "manual" and not budget.layers:
        fail("BAD_SETTING", field="allocation", value="manual", allowed="manual with bits of layers")
    if rule == "trace" and not set(TRACE_BITS) <= set(prices.rates):
        reason = f"{config.method} has no layers of 2 and of 4 bits to choose from by trace"
        fail("BAD_RECIPE", reason=reason, remedy="allocation sensitivity")
    if rule in ("sensitivity", "trace") and not predicts:
        fail("BAD_SETTING", field="allocation", value=rule, allowed="uniform or manual without predictions")
    if rule != "usual":
        return rule
    if prices.recipe.spread and predicts:
        return "sensitivity"
    if not (budget.size or budget.fits) and config.bits in prices.rates:
        return "manual" if budget.layers else ""
    return "sensitivity" if predicts and "spread" not in config.options else "uniform"


def _fixed(prices: Prices, given: Mapping[str, float]) -> dict[str, float]:
    """Bits by module path, from those by name, by block and projection (``3.q_proj``) or by a pattern of either."""
    fixed: dict[str, float] = {}
    for pattern, bits in given.items():
        low, high = prices.rates[0], prices.rates[-1]
        if not (low <= bits <= high if prices.any_rate else bits in prices.rates):
            fail("BAD_SETTING", field=f"bits of {pattern}", value=bits, allowed=listed_bits(prices.rates))
        names = {name: (name, f"{layer.block}.{layer.projection}") for name, layer in prices.layers.items()}
        found = [name for name, forms in names.items() if any(fnmatchcase(form, pattern) for form in forms)]
        if not found:
            first = next(iter(names.values()))
            fail("BAD_SETTING", field="layer", value=repr(pattern), allowed=f"names as {' or '.join(first)}, * for any")
        fixed |= dict.fromkeys(found, bits)
    return fixed


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3f} MB ({size} bytes)"
