"""Settings refuse what is impossible before anything is loaded."""

import math

import pytest

from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import CATALOGUE, QuipError, fail


def test_a_job_survives_json():
    job = JobConfig("m", "o", RecipeConfig("quip", 3, options={"rho": 2.0}), CalibrationConfig("c4", 4, 64), seed=7)
    assert JobConfig.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    "make",
    [
        lambda: CalibrationConfig(samples=0),
        lambda: CalibrationConfig(samples=2.5),
        lambda: CalibrationConfig(seqlen=math.nan),
        lambda: CalibrationConfig(seqlen=True),
        lambda: CalibrationConfig(seqlen="12"),
        lambda: JobConfig("m", "o", seed=-1),
        lambda: JobConfig("m", "o", device="tpu"),
        lambda: JobConfig("m", "o", threads=0),
        lambda: JobConfig.from_json({"model": "m", "out": "o", "colour": "blue"}),
        lambda: JobConfig.from_json({"model": "m", "out": "o", "recipe": {"metod": "quip"}}),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(QuipError) as caught:
        make()
    assert caught.value.code == "BAD_SETTING"


def test_every_error_says_what_and_what_to_do():
    for code, (message, hint) in CATALOGUE.items():
        assert code == code.upper()
        assert message and hint, code
        assert message[-1] in ".}", code


def test_fail_fills_the_sentence():
    with pytest.raises(QuipError) as caught:
        fail("NOT_FOUND", path="/nowhere")
    assert caught.value.to_json() == {
        "error": "NOT_FOUND",
        "message": "No file or folder at /nowhere.",
        "hint": "Check the spelling, or choose another.",
    }


@pytest.mark.parametrize(
    ("budget", "title"),
    [
        (BudgetConfig(), "quip# 2-bit"),
        (BudgetConfig(size=2_900_000), "quip# 2.9 MB"),
        (BudgetConfig(fits=8 * 10**9), "quip# 8 GB"),
    ],
)
def test_a_job_is_named_by_what_it_asks_for(budget, title):
    assert JobConfig("m", "o", budget=budget).title == title
