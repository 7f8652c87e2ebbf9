"""Bits across layers: exactly the asked mean, and more where it is worth more."""

import math

import pytest

from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.methods import resolve
from quip_engine.probe.facts import LinearLayer
from quip_engine.spread import layer_bits

SHAPES = {"q": (64, 64), "k": (32, 64), "o": (64, 64), "gate": (172, 64), "down": (64, 172)}
LAYERS = [LinearLayer(f"{i}.{name}", i, name, shape) for i in range(5) for name, shape in SHAPES.items()]
VALUES = {layer.name: math.sin(7 * i) * 2 - 20 for i, layer in enumerate(LAYERS)}


def mean(bits):
    sizes = {layer.name: math.prod(layer.shape) for layer in LAYERS}
    return sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize("bits", [1, 1.5, 2, 3.35, 4, 5])
def test_water_filled_rates_meet_the_whole(bits):
    found = layer_bits(resolve(RecipeConfig("waterfill", bits)), bits, LAYERS, VALUES)
    assert bits * 0.999 <= mean(found) <= bits + 1e-9
    assert max(1, 0.6 * bits) - 0.05 - 1e-9 <= min(found.values()) and max(found.values()) <= min(5, 2 * bits)


def test_bits_follow_half_the_damped_value():
    found = layer_bits(resolve(RecipeConfig("waterfill", 3)), 3, LAYERS, VALUES)
    offsets = [found[name] - 0.75 / 2 * value for name, value in VALUES.items()]
    assert max(offsets) - min(offsets) <= 0.1  # two steps: one of rounding, one of what was left


def test_whole_bits_where_the_codebook_has_no_others():
    recipe = resolve(RecipeConfig("qtip", 2))
    found = layer_bits(recipe, 2, LAYERS, VALUES)
    assert set(found.values()) == {1, 2, 3}
    assert 1.98 < mean(found) <= 2
    assert VALUES[min(found, key=found.get)] < VALUES[max(found, key=found.get)]
    assert set(layer_bits(recipe, 1, LAYERS, VALUES).values()) == {1}
    assert set(layer_bits(recipe, 4, LAYERS, VALUES).values()) == {4}


def test_no_spread_and_no_gradient():
    recipe = resolve(RecipeConfig("waterfill", 2, options={"spread": "0"}))
    assert set(layer_bits(recipe, 2, LAYERS, VALUES).values()) == {2}
    recipe = resolve(RecipeConfig("waterfill", 2))
    found = layer_bits(recipe, 2, LAYERS, {name: v for name, v in VALUES.items() if name != "3.gate"})
    assert found["3.gate"] == min(found.values())
    assert set(layer_bits(recipe, 2, LAYERS, {}).values())  # nothing known at all


def test_a_recipe_at_other_bits():
    recipe = resolve(RecipeConfig("waterfill", 2)).at(1.85)
    assert {rival.codebook.code_bits for rival in (recipe, *recipe.rivals)} == {1.85}
    assert resolve(RecipeConfig("qtip", 2)).at(3).codebook.code_bits == 3


def test_who_weighs_and_spreads():
    for method, hessian, spread in [("quip#", "plain", 0), ("qtip", "weighted", 0.75), ("waterfill", "weighted", 0.75)]:
        recipe = resolve(RecipeConfig(method, 2))
        assert (recipe.hessian, recipe.spread) == (hessian, spread)
    assert resolve(RecipeConfig("quip#", 2, options={"hessian": "weighted"})).hessian == "weighted"
    assert resolve(RecipeConfig("waterfill", 2, options={"hessian": "plain"})).spread == 0
    assert resolve(RecipeConfig("waterfill", 2, codebook="e8p")).spread == 0


@pytest.mark.parametrize("config", [{"hessian": "plain"}, {"codebook": "e8p"}])
def test_bits_that_cannot_spread_are_refused(config):
    codebook = config.pop("codebook", None)
    with pytest.raises(QuipError, match="only with hessian=weighted"):
        resolve(RecipeConfig("waterfill", 2, codebook=codebook, options={**config, "spread": 0.5}))
