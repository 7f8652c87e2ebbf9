"""Bits across layers: exactly what is asked together, and more where it is worth more."""

import math
from dataclasses import replace

import pytest

from quip_engine.codebooks.column_trellis import RATES
from quip_engine.probe.facts import LinearLayer
from quip_engine.spread import Goal, bits_map, mean_rate, spread

SHAPES = {"q": (64, 64), "k": (32, 64), "o": (64, 64), "gate": (176, 64), "down": (64, 176)}
LAYERS = [LinearLayer(f"{i}.{name}", i, name, shape) for i in range(5) for name, shape in SHAPES.items()]
SIZES = {layer.name: math.prod(layer.shape) for layer in LAYERS}
VALUES = {layer.name: math.sin(7 * i) * 2 - 20 for i, layer in enumerate(LAYERS)}


def goal(bits, *, rates=RATES, any_rate=True, rule="sensitivity", alpha=0.75, fixed=()):
    def cost(layer, rate):
        return math.ceil(rate * SIZES[layer.name] - 1e-6)

    return Goal(rule, alpha, rates, any_rate, math.floor(bits * sum(SIZES.values())), cost, dict(fixed))


def mean(bits):
    return sum(bits[name] * size for name, size in SIZES.items()) / sum(SIZES.values())


@pytest.mark.parametrize("bits", [1, 1.5, 2, 3.35, 4.123, 5])
@pytest.mark.parametrize("rule", ["sensitivity", "uniform"])
def test_any_rate_meets_the_whole_to_a_byte(bits, rule):
    found = spread(goal(bits, rule=rule), LAYERS, VALUES)
    assert bits - 8 * len(LAYERS) / sum(SIZES.values()) < mean(found) <= bits + 1e-9
    assert max(1, 0.6 * bits) - 0.05 - 1e-9 <= min(found.values()) and max(found.values()) <= min(5, 2 * bits) + 1e-9


def test_bits_follow_half_the_damped_value():
    found = spread(replace(goal(3), any_rate=False), LAYERS, VALUES)
    offsets = [found[name] - 0.75 / 2 * value for name, value in VALUES.items()]
    assert max(offsets) - min(offsets) <= 0.1  # two steps: one of rounding, one of what was left


def test_whole_bits_where_there_are_no_others():
    whole = {"rates": (1, 2, 3, 4), "any_rate": False}
    found = spread(goal(2, **whole), LAYERS, VALUES)
    assert set(found.values()) == {1, 2, 3}
    assert 1.98 < mean(found) <= 2
    assert VALUES[min(found, key=found.get)] < VALUES[max(found, key=found.get)]
    half = spread(goal(2.5, **whole, rule="uniform"), LAYERS, VALUES)
    assert set(half.values()) == {2, 3} and 2.4 < mean(half) <= 2.5
    assert set(spread(goal(1, **whole), LAYERS, VALUES).values()) == {1}
    assert set(spread(goal(4, **whole), LAYERS, VALUES).values()) == {4}


def test_by_trace_two_or_four_bits_the_largest_first():
    found = spread(goal(3, rates=(2, 4), any_rate=False, rule="trace", alpha=1.0), LAYERS, VALUES)
    assert set(found.values()) == {2, 4} and 2.9 < mean(found) <= 3
    order = sorted(VALUES, key=VALUES.get, reverse=True)
    first = next(i for i, name in enumerate(order) if found[name] == 2)
    assert all(found[name] == 4 for name in order[:first])
    assert sum(found[name] == 4 for name in order[first:]) <= 2  # what fills up the rest


def test_given_bits_stay_and_the_others_pay():
    fixed = {"0.q": 4.5, "3.down": 1}
    found = spread(goal(2, fixed=fixed), LAYERS, VALUES)
    assert {name: found[name] for name in fixed} == fixed
    assert 1.999 < mean(found) <= 2
    everything = dict.fromkeys(SIZES, 3)
    assert spread(goal(2, fixed=everything), LAYERS, VALUES) == everything


def test_no_gradient_means_the_least():
    found = spread(goal(2), LAYERS, {name: v for name, v in VALUES.items() if name != "3.gate"})
    assert found["3.gate"] == min(found.values())
    assert mean(spread(goal(2), LAYERS, {})) <= 2  # nothing known at all


def test_the_mean_rate_of_a_budget():
    wanted = goal(2.37)
    assert mean_rate(wanted, LAYERS, wanted.budget) == pytest.approx(2.37, abs=1e-3)
    assert mean_rate(wanted, LAYERS, 0) == 1
    assert mean_rate(wanted, LAYERS, 10**9) == 5


def test_bits_as_a_map():
    projections, rows = bits_map(LAYERS[:8], {name: 2.5 for name in SIZES if name != "1.k"})
    assert projections == list(SHAPES)
    assert rows == [[2.5] * 5, [2.5, None, 2.5, None, None]]
