"""What fills the Quantize form comes out of it again: drafts, recipes, "use this recipe", the best quality."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from app import outlook
from app.desk import Desk
from app.fields import Form, calibration_fields, recipe_fields, run_fields
from app.library import DEMO
from app.outlook_desk import OutlookDesk
from app.page import ask
from app.size_fields import asked_fields, shared_fields, tuning_fields
from app.studio import Studio
from quip_engine.best import best_job
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.probe import probe

PLAIN = JobConfig(str(DEMO), "/out", RecipeConfig("waterfill", 2.35), CalibrationConfig(samples=16), device="cpu")
TUNED = TuningConfig(("block", "pv"), 20, 64, 8, 2e-3, 5, head=False, relax_signs="never")
JOBS = {
    "usual": JobConfig(str(DEMO), "/out"),
    "between": replace(PLAIN, recipe=RecipeConfig("quip#", 2.5), tuning=TUNED),
    "size": replace(PLAIN, recipe=RecipeConfig("best", 2), budget=BudgetConfig(size=2_900_000, embeddings=6)),
    "fits": replace(PLAIN, recipe=RecipeConfig("quip", 2), budget=BudgetConfig(fits=2**30, context=64)),
    "by hand": replace(PLAIN, budget=BudgetConfig(rule="uniform", layers={"3.down_proj": 4, "*.v_proj": 1.5})),
}


@pytest.fixture
def desk(home):
    with gr.Blocks(analytics_enabled=False):
        form = Form(gr.State(str(DEMO)))
        note = recipe_fields(form)
        asked_fields(form, form.preset({"preset": form.fields["preset"].value, "method": "quip#"}))
        shared_fields(form)
        tuning_fields(form)
        calibration_fields(form)
        run_fields(form)
        return Desk(Studio(home, never_online=True), form, note)


def seen(desk: Desk, updates: list[Any]) -> tuple[Any, ...]:
    """The values of the form's inputs after ``everything`` was set."""
    values = {component._id: component.value for component in desk.form.inputs}
    for component, update in zip(desk.everything, updates, strict=True):
        if not isinstance(update, dict):
            values[component._id] = update
        elif "value" in update:
            values[component._id] = update["value"]
    return tuple(values[component._id] for component in desk.form.inputs)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_that_fills_the_form_is_the_job_of_the_form(desk, job):
    given = seen(desk, desk.asked(ask(job)))
    assert desk.form.job(desk.studio, given) == job
    price, command, *shown = desk.reprice(*given)
    assert "banner-error" not in price and command
    assert len(shown) == len(outlook.SHOWN)
    assert seen(desk, desk.recalled()) == given  # the draft


@pytest.mark.parametrize("budget", [BudgetConfig(), BudgetConfig(size=2_900_000)], ids=["bits", "size"])
def test_the_best_quality_fills_the_form_and_says_so(desk, budget):
    job = replace(JOBS["usual"], budget=budget)
    *updates, banner = OutlookDesk(desk).best(*seen(desk, desk.asked(ask(job))))
    given = seen(desk, updates)
    assert banner == gr.update(visible=False)
    assert desk.form.job(desk.studio, given) == best_job(job, probe(str(DEMO)))
    note = desk.reprice(*given)[2]
    assert "It is chosen: method best" in note and "tuning ahead of rounding and end to end" in note


def test_what_cannot_be_the_best_says_why(desk):
    job = replace(JOBS["usual"], budget=BudgetConfig(size=100_000))
    *updates, banner = OutlookDesk(desk).best(*seen(desk, desk.asked(ask(job))))
    assert "BAD_TARGET" in banner["value"]
    assert all(update == gr.skip() for update in updates)


@pytest.mark.parametrize(("way", "unit"), [("size", "MB"), ("fits", "MB")])
def test_another_way_to_ask_begins_with_what_it_would_be_now(desk, way, unit):
    given = seen(desk, desk.asked(ask(JOBS["usual"])))
    *_, size, fits = desk.resized(*desk.form.changed(given, sized=way))
    filled = {"size": size, "fits": fits}
    assert filled[way].endswith(unit)
    given = desk.form.changed(given, sized=way, **{way: filled[way]})
    budget = desk.form.job(desk.studio, given).budget
    assert 2_300_000 < (budget.size or budget.fits) < 10**9
    assert "banner-error" not in desk.reprice(*given)[0]


def test_wrong_fields_are_marked(desk):
    given = desk.form.changed(seen(desk, desk.asked(ask(JOBS["usual"]))), layers="nonsense", samples=0.5)
    marks = dict(zip((c.label for c in desk.form.checked), desk.form.marks(given), strict=True))
    assert marks["Bits by hand"]["info"] == "Allowed: NAME=BITS."
    assert marks["Bits by hand"]["elem_classes"] == marks["Samples"]["elem_classes"] == ["wrong"]
    assert marks["Patience"]["elem_classes"] == []
