"""How recipes are named on the command line: in one word, NAME:KEY=VALUE,..., and flags beside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quip_engine.commands.budget_args import budget_values
from quip_engine.commands.tuning_args import tuning_values
from quip_engine.config import JobConfig, Option, RecipeConfig
from quip_engine.errors import fail
from quip_engine.recipe_file import read_recipe

PARTS = ("transform", "codebook", "rounding")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    bits = RecipeConfig.bits
    parser.add_argument("--bits", type=float, default=bits, help=f"bits per weight (default: {bits:g})")
    add_method_arguments(parser)


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """All of a recipe but its bits."""
    text = f"preset, or NAME:KEY=VALUE,... with options or replaced parts (default: {RecipeConfig.method})"
    parser.add_argument("--method", metavar="NAME", help=text)
    for part in PARTS:
        parser.add_argument(f"--{part}", metavar="NAME", help=f"{part} in place of the preset's")
    add_option_argument(parser)


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    text = "parameter of a part, listed by `methods`; repeatable"
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=text)


class RecipeFile(argparse.Action):
    """``--recipe FILE``: recipe, calibration, tuning and seed of a file; flags behind it win."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        job = read_recipe(Path(values), JobConfig("", ""))
        recipe, text = job.recipe, job.calibration
        namespace.method, namespace.bits, namespace.option = _word(recipe), recipe.bits, []
        vars(namespace).update(dict.fromkeys(PARTS))
        namespace.calibration, namespace.samples, namespace.seqlen = text.source, text.samples, text.seqlen
        namespace.seed = job.seed
        vars(namespace).update(tuning_values(job.tuning) | budget_values(job.budget))


def recipe_config(options: argparse.Namespace, bits: float | None = None) -> RecipeConfig:
    """The recipe of these flags, at their bits unless told; a flag's part or option wins over that of the word."""
    named = named_recipe(options.method or RecipeConfig.method, options.bits if bits is None else bits)
    parts: dict[str, Any] = {part: getattr(options, part) or getattr(named, part) for part in PARTS}
    return replace(named, **parts, options=named.options | parse_options(options.option))


def parse_options(pairs: Sequence[str]) -> dict[str, Option]:
    """KEY=VALUE pairs as text by key; the parts know the types."""
    found: dict[str, Option] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            fail("BAD_SETTING", field="option", value=repr(pair), allowed="KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def named_recipe(word: str, bits: float) -> RecipeConfig:
    """The recipe of NAME or NAME:KEY=VALUE,KEY=VALUE; a key is an option, or a part that is replaced."""
    name, _, settings = word.partition(":")
    options = parse_options(settings.split(",")) if settings else {}
    replaced: dict[str, Any] = {part: options.pop(part) for part in PARTS if part in options}
    return RecipeConfig(name, whole_if_whole(bits), **replaced, options=options)


def _word(recipe: RecipeConfig) -> str:
    """What ``named_recipe`` reads."""
    parts = {part: name for part in PARTS if (name := getattr(recipe, part))}
    settings = ",".join(f"{key}={value}" for key, value in {**parts, **recipe.options}.items())
    return f"{recipe.method}:{settings}" if settings else recipe.method


def whole_if_whole(bits: float) -> float:
    """2 instead of 2.0, as people and JSON files write it."""
    return int(bits) if bits == bits // 1 and abs(bits) < 2**31 else bits
