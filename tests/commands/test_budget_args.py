"""What the whole model may take, as flags and as a recipe file."""

import argparse
import json

import pytest
from helpers import made_up_text, tiny_model

from quip_engine.cli import main
from quip_engine.commands.budget_args import add_budget_arguments, budget_config, budget_values
from quip_engine.config import BudgetConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.recipe_file import read_recipe, recipe_text


def parsed(*flags):
    parser = argparse.ArgumentParser()
    add_budget_arguments(parser)
    return budget_config(parser.parse_args(flags))


def test_flags_say_it():
    assert parsed() == BudgetConfig()
    assert parsed("--size", "1.9 MB", "--embeddings", "6") == BudgetConfig(size=1_900_000, embeddings=6)
    assert parsed("--fits", "8GiB", "--context", "512") == BudgetConfig(fits=8 * 2**30, context=512)
    given = parsed("--allocation", "manual", "--layer-bits", "0.q_proj=3", "--layer-bits", "*.down_proj = 2.5")
    assert given == BudgetConfig(rule="manual", layers={"0.q_proj": 3.0, "*.down_proj": 2.5})


@pytest.mark.parametrize(
    "flags", [("--size", "big"), ("--layer-bits", "q"), ("--layer-bits", "=3"), ("--fits", "0 GB")]
)
def test_flags_that_say_nothing(flags):
    with pytest.raises(QuipError) as caught:
        parsed(*flags)
    assert caught.value.code == "BAD_SETTING"


@pytest.mark.parametrize(
    "budget",
    [
        BudgetConfig(),
        BudgetConfig(size=1_234_567, embeddings=4, layers={"1.*": 3}),
        BudgetConfig(fits=10**9, context=99),
    ],
)
def test_a_recipe_keeps_it(tmp_path, budget):
    assert budget_config(argparse.Namespace(**budget_values(budget))) == budget
    (tmp_path / "recipe.json").write_text(recipe_text(JobConfig("m", "o", budget=budget)))
    assert read_recipe(tmp_path / "recipe.json", JobConfig("", "")).budget == budget


def test_what_it_would_take_is_told_before(tmp_path, capsys):
    model = tiny_model(tmp_path, hidden_size=64, intermediate_size=96)
    (tmp_path / "text.txt").write_text(made_up_text(500))
    assert main(["inspect", str(model), "--method", "waterfill", "--embeddings", "4", "--size", "60 kB", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["weight_bytes"] == 60_000 < told["estimate"]["bytes"]
    assert main(["inspect", str(model), "--method", "quip#", "--size", "1 kB", "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "BAD_TARGET"
