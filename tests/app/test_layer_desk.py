"""What the Inspect tab answers, without a page: components are their names here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.utils import deep_hash
from helpers import tiny_model
from story import layer, layer_names, started, tell

from app import layer_views as says
from app.layer_desk import Desk
from app.studio import Studio
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.pipeline import quantize_model
from quip_engine.runs import EventLog, Store

PARTS = ("source", "block", "projection", "recipe", "look", "stop", "progress", "trouble", "nothing", "figures")
PARTS += ("body", "head", "numbers", "maps", "histogram", "spectrum", "outliers", "codebook")
PARTS += ("run", "halt", "racers", "race-trouble", "results", "race", "table")
PAGE: Any = SimpleNamespace(session_hash="a page")


def desk(home: Path) -> Desk:
    return Desk(Studio(home, True), {name: name for name in PARTS}, "shown")


def last(updates: Any) -> dict[str, Any]:
    """All updates of an answer, the later ones over the earlier."""
    found: dict[str, Any] = {}
    for update in updates:
        found |= update
    return found


def test_a_layer_of_a_model_is_shown_and_raced(tmp_path: Path) -> None:
    model, answers = str(tiny_model(tmp_path)), desk(tmp_path / "home")
    source = f"{says.MODEL}{model}"
    blocks, projections, recipe = answers.refill(source)
    assert [value for _, value in blocks["choices"]] == ["0", "1"]
    assert (projections["value"], recipe["visible"]) == ("q_proj", True)
    shown = last(answers.look(PAGE, source, "1", "down_proj", "quip#@2"))
    assert "Block 1 · down" in shown["head"]
    assert shown["trouble"]["visible"] is False
    assert shown["look"]["interactive"] is True
    assert shown["shown"] == says.Chosen(source, "model.layers.1.mlp.down_proj", "quip#@2")
    assert "nearest@2" in shown["racers"]
    raced = last(answers.race(PAGE, shown["shown"], ["quip#@2", "optq@3"]))
    assert raced["table"].count("data-action") == 2
    assert raced["run"]["interactive"] is True
    (asked, _), tab = answers.use(shown["shown"], SimpleNamespace(_data={"action": "optq@3"}))  # type: ignore[arg-type]
    job = JobConfig.from_json(asked)
    assert deep_hash((asked, 0)) == deep_hash((job.to_json(), 0))  # as a state it is hashed
    assert (job.model, job.recipe, tab.selected) == (model, RecipeConfig("optq", 3), "Quantize")


def test_what_cannot_be_shown_is_explained(tmp_path: Path) -> None:
    model, answers = str(tiny_model(tmp_path)), desk(tmp_path / "home")
    for source, block, recipe, code in (
        (f"{says.MODEL}{model}", "7", "quip#@2", "BAD_SETTING"),
        (f"{says.MODEL}{model}", "0", "quip#@7", "BAD_SETTING"),
        (f"{says.MODEL}/no/such/folder", "0", "quip#@2", "NOT_FOUND"),
        (f"{says.RUN}run-99", "0", "quip#@2", "RUN_NOT_FOUND"),
        ("", "0", "quip#@2", "NO_MODEL"),
    ):
        told = last(answers.look(PAGE, source, block, "q_proj", recipe))
        assert code in told["trouble"]["value"]
        assert told["look"]["interactive"] is True
    assert "BAD_SETTING" in last(answers.race(PAGE, None, []))["race-trouble"]["value"]
    assert answers.stops == {}


def test_a_click_in_the_monitor_opens_the_layer_the_run_stored(tmp_path: Path) -> None:
    model, home, out = str(tiny_model(tmp_path)), tmp_path / "home", tmp_path / "out"
    job = JobConfig(model, str(out), RecipeConfig("quip#", 2), CalibrationConfig(samples=4, seqlen=32))
    store = Store(home)
    run = store.create(job)
    log = EventLog(run.directory)
    told = list(quantize_model(job, tmp_path / "work", lambda: False))
    for event in told:
        log.append(event)
    log.close()
    store.update(run.id, status="done", started=1.0, finished=2.0, result={"out": str(out)})
    answers = desk(home)
    shown = last(answers.open(PAGE, (run.id, "1 · up", 0)))
    report = next(event for event in told if getattr(event, "name", "") == "model.layers.1.mlp.up_proj")
    assert shown["source"]["value"] == f"{says.RUN}{run.id}"
    assert (shown["block"]["value"], shown["projection"]["value"]) == ("1", "up_proj")
    assert shown["recipe"]["visible"] is False
    assert says.sci(report.rel_proxy) in shown["numbers"]  # what the run measured, and not what is measured here
    assert "highest of 14 in the run" in shown["numbers"]
    assert "BAD_SETTING" in last(answers.open(PAGE, (run.id, "1 · <b>", 0)))["trouble"]["value"]


def test_a_run_that_is_at_work_is_quantized_anew(tmp_path: Path) -> None:
    model, home = str(tiny_model(tmp_path)), tmp_path / "home"
    run, log, _ = tell(Store(home), model=model)
    names = layer_names(2, ("self_attn.q_proj",))
    log.append(started(names, model=model))
    log.append(layer(names[0]))
    log.close()
    shown = last(desk(home).open(PAGE, (run.id, "1 · q", 0)))
    assert shown["source"]["value"] == f"{says.MODEL}{model}"
    assert shown["recipe"]["visible"] is True
    assert "quantized just now" in shown["head"]


def test_the_first_choice_is_the_newest_finished_run_or_the_demo(tmp_path: Path) -> None:
    source, block, projection, recipe = desk(tmp_path / "home").first("")
    assert source["value"].endswith("demo-model")
    assert (block["value"], projection["value"], recipe["visible"]) == ("0", "q_proj", True)


@pytest.mark.parametrize("source", ["", "run:none", "model:/no/such/folder"])
def test_a_choice_that_has_gone_empties_the_picker(tmp_path: Path, source: str) -> None:
    block, projection, _ = desk(tmp_path / "home").refill(source)
    assert block["choices"] == projection["choices"] == []
