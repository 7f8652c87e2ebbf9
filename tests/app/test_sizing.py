"""What the fields of size and tuning say is what a job has, a recipe file keeps and the command line reads."""

import shlex
from dataclasses import replace

import pytest

from app import forms, sizing
from quip_engine.cli import build_parser
from quip_engine.commands import quantize
from quip_engine.config import BudgetConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import QuipError

USUAL = JobConfig("model", "/out")
SIZED = replace(USUAL, budget=BudgetConfig(size=1_900_000, rule="sensitivity", embeddings=6))
FITTING = replace(USUAL, budget=BudgetConfig(fits=8 * 2**30, context=512, layers={"3.down_proj": 4, "*.v_proj": 2.5}))
TUNED = replace(
    USUAL,
    recipe=RecipeConfig("quip#", 2.5),
    tuning=TuningConfig(("block", "pv"), 20, 64, 8, 2e-3, 5, head=False, relax_signs="never"),
)
JOBS = [USUAL, SIZED, FITTING, TUNED]


@pytest.mark.parametrize("job", JOBS)
def test_fields_show_a_job_and_give_it_back(job):
    fields = {name: float(v) if type(v) is int else v for name, v in sizing.values(job).items()}  # as a browser does
    fields["embeddings"] = job.budget.embeddings
    assert sizing.budget_config(fields) == job.budget
    assert sizing.tuning_config(fields) == job.tuning
    assert not any(sizing.error(name, fields) for name in sizing.CHECKED)


@pytest.mark.parametrize("job", JOBS)
def test_the_command_asks_for_the_same(job, monkeypatch):
    options = build_parser().parse_args(shlex.split(forms.command(job))[3:])
    started = []
    monkeypatch.setattr(quantize, "_check", started.append)
    monkeypatch.setattr(quantize, "start", lambda job: pytest.fail(str(job)) if not started else _stop())
    with pytest.raises(_Enough):
        options.run(options)
    assert replace(started[0], model=job.model) == job


class _Enough(Exception):
    pass


def _stop():
    raise _Enough


def test_fields_of_ways_that_are_not_taken_play_no_part():
    fields = sizing.values(SIZED) | {"fits": "rubbish", "context": None}
    assert sizing.budget_config(fields) == SIZED.budget
    assert sizing.error("fits", fields) == ""
    assert "1.9 MB" in sizing.error("size", fields | {"size": "two"})
    assert sizing.tuning_config(sizing.values(USUAL) | {"tune rate": None}) == TuningConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", ""), ("layers", "3.down_proj"), ("layers", "a=99"), ("rule", None), ("embeddings", 5)],
)
def test_what_cannot_be_meant_has_a_name(name, value):
    with pytest.raises(QuipError) as caught:
        sizing.budget_config(sizing.values(SIZED) | {name: value})
    assert caught.value.code == "BAD_SETTING"


@pytest.mark.parametrize(("name", "value"), [("tune steps", 1.5), ("tune rate", None), ("tune signs", "x")])
def test_so_has_what_cannot_be_tuned(name, value):
    with pytest.raises(QuipError) as caught:
        sizing.tuning_config(sizing.values(TUNED) | {name: value})
    assert caught.value.code == "BAD_SETTING"
    assert name == "tune signs" or sizing.error(name, sizing.values(TUNED) | {name: value})


@pytest.mark.parametrize("size", [1, 999, 1000, 1_900_000, 2_345_678, 8 * 2**30, 7_500_000_001])
def test_bytes_are_written_as_they_are_read(size):
    assert sizing.budget_config(sizing.values(replace(USUAL, budget=BudgetConfig(size=size)))).size == size
    assert len(sizing.written(1_900_000)) == len("1.9 MB")


def test_a_mean_between_two_bitrates():
    preset = forms.preset_of("Fast", "")
    assert forms.bits_choices(preset)[-1] == ("Between", forms.OTHER)
    assert forms.bits_asked(preset, forms.OTHER, 2.35) == 2.35
    assert (forms.between(preset, 2), forms.between(preset, 4), forms.between(preset, 2.2)) == (2.5, 3.5, 2.2)
    config = forms.recipe_config("quip#", 2.35, forms.parts_of(RecipeConfig("quip#", 2.35)))
    assert config == RecipeConfig("quip#", 2.35)
    assert forms.stem(config) == "quip-sharp-2.35bit"
    assert forms.stem(config, SIZED.budget) == "quip-sharp-1.9mb"
    assert [sizing.asked(job) for job in (USUAL, SIZED, FITTING)] == ["2 bits", "1.9 MB", "what fits 8.589934592 GB"]
