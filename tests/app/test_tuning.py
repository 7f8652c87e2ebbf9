"""Tuning as the Monitor tells it: stages, time left, what was kept, what was expected."""

import math
import time
from dataclasses import replace

import pytest
from story import tell

from app import figures, journal, tuning_views, views
from app.live_plot import dumps
from app.results import Result
from app.state import RunView
from app.tuning import Tuning, now_doing, state
from quip_engine import events
from quip_engine.config import BudgetConfig, JobConfig, TuningConfig
from quip_engine.expectation import Expectation, Point
from quip_engine.runs import Store


def begun(stage="end-to-end", kl=0.1, steps=10):
    return events.TuningStarted(stage, steps, 100, 10, 5000, kl, 60.0, 900.0)


def step(k, kl=None, loss=0.09, stage="end-to-end", seconds=None):
    return events.TuningProgress(stage, k, 10, loss, kl, 0.08, float(k) if seconds is None else seconds)


def folded(*told):
    tuning = Tuning()
    for k, event in enumerate(told):
        tuning.fold(event, float(k))
    return tuning


def test_time_left_is_what_was_promised_then_follows_the_pace():
    assert folded(begun()).current.left(20.0) == pytest.approx(40.0)
    assert folded(begun()).current.left(1000.0) == 0.0
    stage = folded(begun(), step(1, seconds=3), step(2, seconds=6)).current
    assert stage.left(1e9) == pytest.approx(24.0)
    assert now_doing(stage, 0.0) == "end-to-end, step 2 of 10 · 25 s left"


def test_the_best_is_marked_the_first_state_among_them():
    stage = folded(begun(), step(1, 0.12), step(2, 0.08), step(3), step(4, 0.09)).current
    assert stage.judged == [(0, 0.1), (1, 0.12), (2, 0.08), (4, 0.09)]
    assert stage.best == (2, 0.08)
    assert state(stage) == "end-to-end: step 4 of 10, KL 9.00e-2, best 8.00e-2 after step 2"
    assert "nothing better yet" in state(folded(begun(), step(1, 0.2)).current)


def test_a_resumed_stage_goes_on_where_it_was_kept():
    told = [begun(), step(1), step(2, 0.09), step(3, seconds=9)]
    again = folded(*told, begun(), step(3, 0.08, seconds=1.0), step(4, seconds=2.0)).current
    assert [p.step for p in again.progress] == [1, 2, 3, 4]
    assert again.left(0.0) == pytest.approx(6.0)  # one second a step, as it is now
    assert folded(step(1)).stages == {}  # a log cut off before the beginning


def view_of(home, *told, **changes):
    run, log, _ = tell(Store(home))
    view = RunView(run)
    for record in log_records(run):
        view.fold(record)
    for event in told:
        view.fold({"time": 100.0, **events.to_json(event)})
    for name, value in changes.items():
        setattr(view, name, value)
    log.close()
    return view


def log_records(run):
    from quip_engine.runs import Tail

    return Tail(run.directory).read()


ENDED = events.TuningFinished("end-to-end", 10, 0.1, 0.08, True, 30.0, 900.0)
WORSE = events.TuningFinished("pv", 10, 0.08, 0.08, False, 30.0, 900.0)


def test_the_figure_counts_steps_through_all_stages(home):
    told = [begun(), *(step(k, 0.1 - 0.002 * k) for k in range(1, 11)), ENDED]
    view = view_of(home, *told, begun("pv", 0.08), step(1, 0.09, stage="pv"))
    figure = tuning_views.plots(view)["kl"]
    before, loss, judged, best = figure["data"]
    assert (before["x"], before["y"]) == ([0, 10, None, 10, 20], [0.1, 0.1, None, 0.08, 0.08])
    assert judged["x"] == [*range(11), None, 10, 11]
    assert best["x"] == [10, 10]
    assert len(loss["x"]) == 12
    assert [a["text"] for a in figure["layout"]["annotations"]] == ["end-to-end", "pv"]
    assert figure["foot"].startswith("pv: step 1 of 10, KL 9.00e-2")
    assert '"#' not in dumps(figure)


def test_on_a_phone_stages_of_a_kind_have_one_name():
    names = ["progressive 1", "progressive 2", "progressive 3", "end-to-end", "pv"]
    figure = figures.tuning([figures.Course(n, 10, [], [(0, 0.1)], (0, 0.1)) for n in names], "run")
    assert [a["text"] for a in figure["layout"]["annotations"]] == names
    small = figure["narrow"]["annotations"]
    assert [(a["text"], a["x"]) for a in small] == [("progressive 1–3", 15), ("end-to-end", 35), ("pv", 45)]


def test_many_steps_are_thinned():
    losses = [(k, 0.1) for k in range(10_000)]
    figure = figures.tuning([figures.Course("pv", 10_000, losses, [(0, 0.1)], (0, 0.1))], "run")
    assert len(figure["data"][1]["x"]) <= 300


def test_who_got_the_bits_is_a_map(home):
    view = view_of(home)
    assert tuning_views.plots(view)["bits"] == {}
    bits = {layer["name"]: 2.0 + layer["block"] for layer in view.started.layers}
    view.fold({"time": 1.0, **events.to_json(events.BitsAllocated("sensitivity", bits, 0, 0))})
    figure = tuning_views.plots(view)["bits"]
    assert figure["data"][0]["z"] == [[2.0] * 3, [3.0] * 3, [4.0] * 3]
    assert figure["foot"] == "Most for block 2 q (4), least for block 0 q (2)."
    assert "bits by sensitivity: 2.00 to 4.00" in journal.log(view)


def test_what_came_of_tuning_is_said(home):
    said = tuning_views.told(view_of(home, begun(), ENDED, begun("pv", 0.08), WORSE), None, None)
    assert "1.00e-1 → 8.00e-2 (−20.0 %) in 30 s" in said
    assert "Tuning pv was not kept. It found nothing better on held-out text" in said
    assert tuning_views.told(view_of(home), None, None) == ""


def test_what_was_expected_is_compared(home):
    points = [Point(2, 100, 0.12, 0.01, 1.1, 0.01, 1), Point(3, 150, 0.03, 0.01, 1.02, 0.01, 1)]
    expected = Expectation("quip#", points, [0], 1, 16, 16, 60.0, {})
    finished = events.RunFinished("/out", "quip#", 2, 2.0, 1, 1.0, 1.0, 0.01)
    result = Result(**dict.fromkeys(Result.__dataclass_fields__, None) | {"mean_kl": 0.1, "mean_kl_error": 0.0})
    view = view_of(home, finished)
    assert "1.20e-1 ± 1.00e-2; 1.00e-1 came: the expectation was 20 % too high, 2.0 standard errors" in (
        tuning_views.told(view, expected, result)
    )
    assert "Evaluate shows what came" in tuning_views.told(view, expected, None)
    tuned = view_of(home, begun(), ENDED, finished)
    assert "without tuning; with that 1.00e-1 came (−16.7 %)" in tuning_views.told(tuned, expected, result)
    object.__setattr__(view.run, "job", replace(view.run.job, budget=BudgetConfig(embeddings=4)))
    assert "without packed embeddings; with that 1.00e-1 came" in tuning_views.told(view, expected, result)
    assert tuning_views.told(view_of(home), expected, result) == ""  # it is not finished


def test_the_page_says_that_it_tunes(home):
    view = view_of(home, events.PhaseChanged("tune", "x"), begun(), step(1, 0.09))
    object.__setattr__(view.run, "job", JobConfig("/models/tiny", "/out", tuning=TuningConfig(("pv",))))
    object.__setattr__(view.run, "status", "running")
    assert "Tuning tiny" in views.head(view)
    assert '<li class="now " aria-current=step>Tune</li>' in views.head(view)
    assert "end-to-end, step 1 of 10 · 10 s left" in views.strip(view, 100.0, 0.0)
    assert view.remaining(time.time()) == pytest.approx(9.0)
    assert "Left of this stage" in views.numbers(view, None, 0.0)
    view.fold({"time": 1.0, **events.to_json(next(e for _, e in view.log if isinstance(e, events.LayerQuantized)))})
    assert view.phase == "quantize"  # the training was one between two blocks
    assert math.isfinite(view.remaining(time.time()) or 0.0)
    assert "Left of the layers" in views.numbers(view, None, 0.0)
    assert ", then tuning" in views.strip(view, 100.0, 0.0)
