import json
from dataclasses import replace

import pytest

from quip_engine.cli import build_parser
from quip_engine.commands.recipe_args import recipe_config
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.recipe_file import LARGEST, read_recipe, recipe_text

RECIPE = RecipeConfig("quip", 3, codebook="grid", options={"sweeps": 2, "rescale": True})
JOB = JobConfig("/a/model", "/an/output", RECIPE, CalibrationConfig("c4", 64, 512), seed=7, device="cpu")
OTHER = JobConfig("/b/model", "/other", device="cuda", threads=3)


def written(tmp_path, text=None):
    path = tmp_path / "recipe.json"
    path.write_text(recipe_text(JOB) if text is None else text, encoding="utf-8")
    return path


def test_a_recipe_is_given_to_another_model(tmp_path):
    read = read_recipe(written(tmp_path), OTHER)
    assert (read.recipe, read.calibration, read.seed) == (JOB.recipe, JOB.calibration, 7)
    assert (read.model, read.out, read.device, read.threads) == ("/b/model", "/other", "cuda", 3)


def test_a_recipe_names_no_folder():
    assert "/a/model" not in recipe_text(JOB)
    assert "/an/output" not in recipe_text(JOB)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "NOT_A_RECIPE"),
        ("[1]", "NOT_A_RECIPE"),
        ("{}", "NOT_A_RECIPE"),
        ('{"quip_recipe": 2}', "NOT_A_RECIPE"),
        ('{"quip_recipe": 1, "recipe": 3}', "NOT_A_RECIPE"),
        ("[" * 50_000, "NOT_A_RECIPE"),
        (" " * (LARGEST + 1), "NOT_A_RECIPE"),
        ('{"quip_recipe": 1, "model": "/etc"}', "NOT_A_RECIPE"),
        ('{"quip_recipe": 1, "device": "mars"}', "NOT_A_RECIPE"),
        ('{"quip_recipe": 1, "seed": -1}', "BAD_SETTING"),
        ('{"quip_recipe": 1, "seed": "0"}', "BAD_SETTING"),
        ('{"quip_recipe": 1, "calibration": {"samples": 0}}', "BAD_SETTING"),
        ('{"quip_recipe": 1, "recipe": {"secret": 1}}', "BAD_SETTING"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, code):
    with pytest.raises(QuipError) as caught:
        read_recipe(written(tmp_path, text), OTHER)
    assert caught.value.code == code


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(QuipError) as caught:
        read_recipe(tmp_path / "none.json", OTHER)
    assert caught.value.code == "NOT_FOUND"


def test_flags_behind_a_recipe_win(tmp_path):
    words = ["quantize", "m", "--out", "o", "--seed", "1", "--recipe", str(written(tmp_path)), "--bits", "2"]
    options = build_parser().parse_args(words)
    recipe = recipe_config(options)
    assert (recipe.method, recipe.bits, recipe.codebook) == ("quip", 2, "grid")
    assert recipe.options == {"sweeps": "2", "rescale": "True"}  # text, as flags give it
    assert (options.calibration, options.samples, options.seqlen, options.seed) == ("c4", 64, 512, 7)
    assert json.loads(recipe_text(JOB))["recipe"]["method"] == "quip"
    one = recipe_config(build_parser().parse_args([*words, "--option", "sweeps=3"]))
    assert one == replace(recipe, options={**recipe.options, "sweeps": "3"})
    other = recipe_config(build_parser().parse_args([*words, "--method", "qtip:L=10,rounding=nearest"]))
    assert other == RecipeConfig("qtip", 2, rounding="nearest", options={"L": "10"})
