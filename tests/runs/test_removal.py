"""Deleting takes what the run made and nothing else; sharing starts a process that tells where it stands."""

import json
import time
from pathlib import Path

import pytest
from filelock import FileLock

from quip_engine.checkpoint import MANIFEST, verify
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.files import sha256, write_json
from quip_engine.runs import Store
from quip_engine.runs.removal import delete, footprint
from quip_engine.runs.sharing import Transfer, begin, transfer_of


def finished(tmp_path, **changes):
    """A run that is done, and its model as far as a manifest can tell."""
    folder = tmp_path / "made"
    job = JobConfig(str(tmp_path / "source"), str(folder), calibration=CalibrationConfig(samples=8, seqlen=16), seed=7)
    store = Store()
    run = store.create(job)
    result = {"out": str(folder), "bits_per_weight": 2.0312, "bytes": 1, "seconds": 1.0, "mean_rel_proxy": 0.01}
    store.update(run.id, status="done", finished=float(run.id[4:]), result=result)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    write_json(folder / "config.json", {"model_type": "llama"})
    listed = {
        n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)}
        for n in ("model.safetensors", "config.json")
    }
    recipe = {slot: {"name": "x"} for slot in ("transform", "codebook", "rounding")}
    manifest = {"model": "source", "method": "quip#", "bits": 2, "seed": 7, "bits_per_weight": 2.0312, "recipe": recipe}
    manifest |= {
        "calibration": {"source": "bundled", "samples": 8, "seqlen": 16},
        "layers": [],
        "skipped": {},
        "files": listed,
    }
    write_json(folder / MANIFEST, {**manifest, **changes})
    return store.get(run.id), folder


def test_sizes_are_told_and_only_what_was_made_goes(home, tmp_path):
    run, folder = finished(tmp_path)
    (run.directory / "events.jsonl").write_text("x" * 50)
    (folder / "mine.txt").write_text("mine")
    size = footprint(run)
    assert (size.directory, size.kept) == (50, "")
    assert size.checkpoint == sum(p.stat().st_size for p in folder.iterdir()) - 4
    freed = delete(run.id, checkpoint=True)
    assert freed == size
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    assert not run.directory.exists() and Store().list() == []


def test_without_being_asked_the_model_stays(home, tmp_path):
    run, folder = finished(tmp_path)
    delete(run.id)
    verify(folder)
    assert Store().list() == []


def test_an_empty_folder_goes_with_its_files(home, tmp_path):
    run, folder = finished(tmp_path)
    delete(run.id, checkpoint=True)
    assert not folder.exists()


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"bits_per_weight": 3.0}, {"method": "optq"}, {"calibration": None}, {"files": 3}]
)
def test_a_folder_of_another_recipe_is_not_touched(home, tmp_path, change):
    run, folder = finished(tmp_path, **change)
    with pytest.raises(QuipError) as caught:
        delete(run.id, checkpoint=True)
    assert caught.value.code == "NOT_YOURS"
    assert (folder / "model.safetensors").exists() and run.directory.exists()


def test_a_folder_that_was_written_anew_belongs_to_the_later_run(home, tmp_path):
    first, _ = finished(tmp_path)
    second, folder = finished(tmp_path)
    assert "run-2" in footprint(first).kept
    assert footprint(second).kept == ""
    delete(first.id)
    verify(folder)


def test_links_and_names_elsewhere_are_left_alone(home, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("keep")
    run, folder = finished(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = {"bytes": 4, "sha256": "0" * 64}
    write_json(folder / MANIFEST, {**manifest, "files": {**manifest["files"], "../outside.txt": entry, "link": entry}})
    (folder / "link").symlink_to(outside)
    (run.directory / "link").symlink_to(outside)
    delete(run.id, checkpoint=True)
    assert outside.read_text() == "keep"
    assert [p.name for p in folder.iterdir()] == ["link"]


def test_a_run_at_work_is_not_deleted(home, tmp_path):
    run, _ = finished(tmp_path)
    Store().update(run.id, status="running")
    with FileLock(run.directory / "worker.lock"), pytest.raises(QuipError) as caught:
        delete(run.id)
    assert caught.value.code == "BUSY"
    Store().update(run.id, status="done")
    with FileLock(run.directory / "transfer.lock"), pytest.raises(QuipError) as caught:
        delete(run.id)
    assert caught.value.code == "BUSY"


def wait_for_transfer(run):
    deadline = time.monotonic() + 90
    while (found := transfer_of(run)) is None or found.status == "working":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_an_export_runs_beside_and_a_push_keeps_its_token(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run, _ = finished(tmp_path)
    begin(run, Transfer("export", str(tmp_path / "copy")), home)
    found = wait_for_transfer(run)
    assert (found.status, found.error, found.address) == ("done", None, str(tmp_path / "copy"))
    verify(tmp_path / "copy")
    assert "Perplexity has not been measured." in (tmp_path / "copy" / "README.md").read_text()

    token = "hf_secretsecretsecret"
    begin(run, Transfer("push", "owner/name"), home, token)
    found = wait_for_transfer(run)
    assert (found.status, found.error["error"]) == ("failed", "PUSH_FAILED")
    assert all(token not in path.read_text(errors="replace") for path in Path(home).rglob("*") if path.is_file())
