"""From a model folder to a finished checkpoint: the same bits however often interrupted, faults named and left out."""

import json

import pytest
import torch
from helpers import made_up_text, tiny_model
from transformers import AutoModelForCausalLM

import quip_engine  # noqa: F401 - registers the format
from quip_engine import block_work, events
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.files import sha256
from quip_engine.pipeline import quantize_model


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text(made_up_text(2000))
    return path


def job_for(model, out, text, **changes):
    calibration = CalibrationConfig(str(text), samples=8, seqlen=32)
    return JobConfig(str(model), str(out), **{"calibration": calibration, "threads": 1, **changes})


def never():
    return False


def run(job, workspace, stop=never):
    return list(quantize_model(job, workspace, stop))


def run_until_saved(job, workspace, blocks):
    saved = []
    with pytest.raises(Stopped):
        for event in quantize_model(job, workspace, lambda: len(saved) >= blocks):  # noqa: B023
            saved += [event] if isinstance(event, events.BlockSaved) else []


def digests(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def test_the_same_job_writes_the_same_files(tmp_path, text):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    for out in ("one", "two"):
        run(job_for(model, tmp_path / out, text), tmp_path / f"work-{out}")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    run(job_for(model, tmp_path / "other", text, seed=1), tmp_path / "work")
    assert digests(tmp_path / "other") != digests(tmp_path / "one")


@pytest.mark.parametrize("stop_after", [0, 1, 8, 20])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, text, stop_after):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=4)
    run(job_for(model, tmp_path / "whole", text), tmp_path / "work-whole")
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked > stop_after

    job = job_for(model, tmp_path / "out", text)
    with pytest.raises(Stopped) as stopped:
        run(job, tmp_path / "work", stop)
    assert not (tmp_path / "out").exists()
    found = run(job, tmp_path / "work")
    assert next(e for e in found if isinstance(e, events.RunStarted)).resumed_at == stopped.value.args[0]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_resume_with_other_inputs_is_refused_by_field(tmp_path, text):
    model = tiny_model(tmp_path, "llama")
    job = job_for(model, tmp_path / "out", text)
    with pytest.raises(Stopped):
        run(job, tmp_path / "work", lambda: True)
    changed = {
        "seed": job_for(model, tmp_path / "out", text, seed=3),
        "recipe": job_for(model, tmp_path / "out", text, recipe=RecipeConfig("quip#", 3)),
        "calibration": job_for(model, tmp_path / "out", text, calibration=CalibrationConfig(str(text), 7, 32)),
    }
    for field, other in changed.items():
        with pytest.raises(QuipError) as caught:
            run(other, tmp_path / "work")
        assert caught.value.code == "RESUME_MISMATCH"
        assert field in caught.value.message
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(QuipError) as caught:
        run(job, tmp_path / "work")
    assert caught.value.code == "RESUME_MISMATCH" and "weights" in caught.value.message


def test_a_damaged_block_is_found_before_it_is_used(tmp_path, text):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=3)
    job = job_for(model, tmp_path / "out", text)
    run_until_saved(job, tmp_path / "work", blocks=2)
    block = tmp_path / "work" / "block-00000.safetensors"
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.write_bytes(data)
    with pytest.raises(QuipError) as caught:
        run(job, tmp_path / "work")
    assert caught.value.code == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize(
    ("place", "code"),
    [("taken", "OUTPUT_EXISTS"), ("tiny-llama/out", "OUTPUT_IN_SOURCE"), ("file/out", "OUTPUT_NOT_WRITABLE")],
)
def test_wrong_outputs_are_refused_before_anything_is_written(tmp_path, text, place, code):
    model = tiny_model(tmp_path, "llama")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(QuipError) as caught:
        run(job_for(model, tmp_path / place, text), tmp_path / "work")
    assert caught.value.code == code
    assert not (tmp_path / "work").exists()


def test_the_manifest_tells_what_was_done(tmp_path, text):
    model = tiny_model(tmp_path, "llama")
    run(job_for(model, tmp_path / "out", text), tmp_path / "work")
    manifest = read_manifest(tmp_path / "out")
    assert manifest["method"] == "quip#" and manifest["bits"] == 2 and manifest["seed"] == 0
    assert manifest["calibration"]["windows"] == [8, 32]
    assert len(manifest["layers"]) == 14
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_layer_that_cannot_be_quantized_is_named_and_kept(tmp_path, text, monkeypatch):
    model, out = tiny_model(tmp_path), tmp_path / "out"
    real = block_work.quantize_weight

    def fails_on_values(W, H, recipe, *, name, **rest):
        if name.endswith("v_proj"):
            fail("WIDTH_UNSUPPORTED", name=name, reason="it is too odd", remedy="Leave it out.")
        return real(W, H, recipe, name=name, **rest)

    monkeypatch.setattr(block_work, "quantize_weight", fails_on_values)
    found = run(job_for(model, out, text), tmp_path / "work")
    names = [f"model.layers.{i}.self_attn.v_proj" for i in range(2)]
    assert [e.name for e in found if isinstance(e, events.LayerSkipped)] == names
    assert found[-1].skipped == names
    assert "too odd" in read_manifest(out)["skipped"][names[0]]
    loaded, dense = (AutoModelForCausalLM.from_pretrained(path) for path in (out, model))
    assert torch.equal(loaded.get_submodule(names[0]).weight, dense.get_submodule(names[0]).weight)


def test_a_run_that_could_do_no_layer_is_refused(tmp_path, text, monkeypatch):
    def fails(W, H, recipe, *, name, **rest):
        fail("QUANT_UNSTABLE", name=name, reason="it is all noise")

    monkeypatch.setattr(block_work, "quantize_weight", fails)
    with pytest.raises(QuipError) as caught:
        run(job_for(tiny_model(tmp_path), tmp_path / "out", text), tmp_path / "work")
    assert caught.value.code == "NOTHING_QUANTIZED"
    assert "all noise" in caught.value.message
    assert not (tmp_path / "out").exists()
