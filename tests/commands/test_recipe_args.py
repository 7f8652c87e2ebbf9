"""Recipes on the command line: a word as the tables have it, flags, and both."""

from __future__ import annotations

import pytest

from quip_engine.cli import build_parser
from quip_engine.commands.recipe_args import recipe_config
from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError


def recipe(*arguments: str) -> RecipeConfig:
    return recipe_config(build_parser().parse_args(["quantize", "model", "--out", "made", *arguments]))


def test_a_word_of_the_tables_says_the_same_as_flags() -> None:
    flags = recipe("--method", "quip", "--rounding", "nearest", "--option", "rho=search")
    assert recipe("--method", "quip:rho=search,rounding=nearest") == flags
    assert flags == RecipeConfig("quip", 2, rounding="nearest", options={"rho": "search"})


def test_a_flag_wins_over_the_word() -> None:
    found = recipe("--method", "qtip:L=10,rounding=nearest,damping=0.1", "--rounding", "ldlq", "--option", "L=16")
    assert found == RecipeConfig("qtip", 2, rounding="ldlq", options={"L": "16", "damping": "0.1"})


def test_expect_reads_the_same_words() -> None:
    options = build_parser().parse_args(["expect", "model", "--method", "waterfill:L=8", "--bits", "1.5,2"])
    assert recipe_config(options, 1.5) == RecipeConfig("waterfill", 1.5, options={"L": "8"})


def test_half_a_word_is_named() -> None:
    with pytest.raises(QuipError, match=r"option: .L. is not possible"):
        recipe("--method", "qtip:L")
