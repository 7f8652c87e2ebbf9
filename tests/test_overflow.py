"""Windows that overflow are put aside and named; too many of them end the run; without any nothing changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import overflowing_model, overflowing_text
from safetensors.torch import load_file

from quip_engine import events
from quip_engine.checkpoint import read_manifest
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.files import sha256
from quip_engine.overflow import Places, overflowing
from quip_engine.pipeline import quantize_model

WINDOWS, LENGTH = 20, 32
RECIPES = {
    "plain": RecipeConfig("quip#", 2, options={"hessian": "plain", "targets": "original"}),
    "corrected": RecipeConfig("quip#", 2, options={"hessian": "plain", "targets": "corrected"}),
    "weighted": RecipeConfig("quip#", 2, options={"hessian": "weighted", "targets": "original"}),
}


def job_for(folder: Path, overflowing: int, recipe: RecipeConfig = RECIPES["plain"]) -> JobConfig:
    """``overflowing`` of the windows overflow in the first block."""
    model = overflowing_model(folder, num_hidden_layers=3)
    text = overflowing_text(folder / "text.jsonl", WINDOWS, LENGTH, overflowing)
    calibration = CalibrationConfig(str(text), WINDOWS, LENGTH)
    return JobConfig(str(model), str(folder / "out"), recipe, calibration, device="cpu")


def run(job: JobConfig, work: Path, stop_after: int = 99) -> list[events.Event]:
    found: list[events.Event] = []
    for event in quantize_model(job, work, lambda: sum(isinstance(e, events.BlockSaved) for e in found) >= stop_after):
        found.append(event)
    return found


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


def told(found: list[events.Event]) -> list[str]:
    return [e.message for e in found if isinstance(e, events.Warned) and e.code == "ACTIVATION_OVERFLOW"]


@pytest.mark.parametrize("kind", [*RECIPES, "packed embeddings"])
def test_a_window_that_overflows_is_put_aside_and_named(tmp_path: Path, kind: str) -> None:
    job = job_for(tmp_path, 2, RECIPES.get(kind, RECIPES["corrected"]))
    embeddings = 8 if kind == "packed embeddings" else 0
    found = run(replace(job, budget=BudgetConfig(embeddings=embeddings)), tmp_path / "work")
    name = "model.decoder.layers.0"
    assert told(found) == [f"2 of 20 calibration rows overflow in {name}; others stand in for them."]
    manifest = read_manifest(tmp_path / "out")
    (moved,) = manifest["overflow"].values()
    assert list(manifest["overflow"]) == [name] and len({place for place, _ in moved}) == 2
    assert all(torch.isfinite(t).all() for t in load_file(next((tmp_path / "out").glob("*.safetensors"))).values())
    assert max(layer["rel_proxy"] for layer in manifest["layers"]) < 0.5


def test_a_block_is_tuned_without_them(tmp_path: Path) -> None:
    found = run(replace(job_for(tmp_path, 2), tuning=TuningConfig(("block",))), tmp_path / "work")
    tuned = [e for e in found if isinstance(e, events.BlockTuned)]
    assert len(told(found)) == 1 and tuned and all(e.loss <= e.loss_before < 1 for e in tuned)


def test_a_resumed_run_writes_the_same_bytes(tmp_path: Path) -> None:
    job = job_for(tmp_path, 2, RECIPES["corrected"])
    run(job, tmp_path / "work")
    expected = digests(tmp_path / "out")
    again = replace(job, out=str(tmp_path / "again"))
    with pytest.raises(Stopped):
        run(again, tmp_path / "work-again", stop_after=1)
    assert not told(run(again, tmp_path / "work-again"))  # it was told by the first worker
    assert digests(tmp_path / "again") == expected


def test_too_many_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(QuipError) as caught:
        run(job_for(tmp_path, 3), tmp_path / "work")
    assert caught.value.code == "ACTIVATION_OVERFLOW"
    assert "3 of 20 calibration rows overflow in model.decoder.layers.0" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_where_nothing_overflows_nothing_is_said(tmp_path: Path) -> None:
    assert not told(run(job_for(tmp_path, 0), tmp_path / "work"))
    assert "overflow" not in read_manifest(tmp_path / "out")


def test_a_window_that_stands_in_may_overflow_itself() -> None:
    places, states = Places(40), torch.arange(40.0)[:, None].repeat(1, 3)
    places.put_aside([5], "a")
    assert places.owners[5] == 6
    places.put_aside([5], "b")  # that is window 6, which stands at its own place, too
    assert (places.owners[5], places.owners[6]) == (7, 7)
    places.follow(states)
    assert states[4:8, 0].tolist() == [4, 7, 7, 7]
    assert Places(40, places.history).owners == places.owners
    assert places.news() == [
        "1 of 40 calibration rows overflow in a; others stand in for them.",
        "2 of 40 calibration rows overflow in b; others stand in for them.",
    ]
    assert places.news() == []


def test_overflowing_windows_are_found() -> None:
    values = torch.zeros(5, 2, 3)
    values[1, 0, 2], values[4, 1, 1] = torch.inf, torch.nan
    assert overflowing(values, 10) == [11, 14]
