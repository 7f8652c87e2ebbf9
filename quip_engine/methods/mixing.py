"""One method at several rates: what a layer can get where the bits of a model are shared out."""

from __future__ import annotations

from dataclasses import replace

from quip_engine.codebooks import codebooks
from quip_engine.config import RecipeConfig
from quip_engine.methods.registry import Recipe, offered_bits, presets, resolve


def offered_rates(config: RecipeConfig) -> tuple[float, ...]:
    """The bits per weight that a method, or the codebook that is asked for, has a form for; rising."""
    preset = presets.get(config.method)
    rates = preset.bits if config.codebook is None else offered_bits(codebooks.get(config.codebook))
    return tuple(sorted(rates))


def takes_any_rate(recipe: Recipe) -> bool:
    """Whether a layer can have any rate between those offered, all its bytes counted."""
    return all(bool(rival.codebook.rates) for rival in recipe.rivals or (recipe,))


def at_rate(config: RecipeConfig, recipe: Recipe, bits: float) -> Recipe:
    """``recipe``, the one of ``config`` at some rate, at another one: offered, or any between where it takes any."""
    return recipe.at(bits) if takes_any_rate(recipe) else resolve(replace(config, bits=bits))


def resolve_mixed(config: RecipeConfig) -> Recipe:
    """The recipe of layers that have the bits of ``config``, or the nearest offered below, where layers differ.

    Refuses what ``resolve`` does, but for bits between two that are offered.
    """
    rates = offered_rates(config)
    if not rates[0] < config.bits < rates[-1]:
        return resolve(config)
    return resolve(replace(config, bits=max(rate for rate in rates if rate <= config.bits)))
