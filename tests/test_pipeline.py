"""From a model folder to a finished checkpoint: the same bits however often interrupted, faults named and left out."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import made_up_text, tiny_model
from transformers import AutoModelForCausalLM

import quip_engine  # noqa: F401 - registers the format
from quip_engine import block_work, events, room
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.files import sha256
from quip_engine.pipeline import quantize_model
from quip_engine.workspace import Workspace


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
    assert caught.value.code == "RESUME_MISMATCH" and "files.model.safetensors" in caught.value.message


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_found_and_costs_at_most_the_last_block(tmp_path, text):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=3)
    run(job_for(model, tmp_path / "whole", text), tmp_path / "work-whole")
    job, work = job_for(model, tmp_path / "out", text), tmp_path / "work"
    run_until_saved(job, work, blocks=2)
    flip(work / "objects" / (work / "CURRENT").read_text().split()[0])
    found = run(job, work)
    assert "CHECKPOINT_DAMAGED" in [e.code for e in found if isinstance(e, events.Warned)]
    assert next(e.resumed_at for e in found if isinstance(e, events.RunStarted)) == 1
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_damage_in_both_generations_is_the_end(tmp_path, text):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=3)
    job, work = job_for(model, tmp_path / "out", text), tmp_path / "work"
    run_until_saved(job, work, blocks=2)
    with Workspace(work) as space:
        first = space.finished_blocks()[0].path
    flip(first)
    with pytest.raises(QuipError) as caught:
        run(job, work)
    assert caught.value.code == "CHECKPOINT_DAMAGED" and first.name in caught.value.message


def test_a_run_that_was_published_but_not_told_is_finished(tmp_path, text):
    job, work = job_for(tiny_model(tmp_path), tmp_path / "out", text), tmp_path / "work"
    for event in quantize_model(job, work, never):
        if event == events.PhaseChanged("done"):
            break  # killed here
    before = digests(tmp_path / "out")
    found = run(job, work)
    assert isinstance(found[-1], events.RunFinished) and found[-1].bytes > 0
    assert not any(isinstance(e, events.LayerQuantized) for e in found)
    assert digests(tmp_path / "out") == before and not work.exists()


def test_a_source_that_changes_meanwhile_is_noticed_and_may_come_back(tmp_path, text):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=3)
    weights, job, work = model / "model.safetensors", job_for(model, tmp_path / "out", text), tmp_path / "work"
    good = weights.read_bytes()
    with pytest.raises(QuipError) as caught:
        for event in quantize_model(job, work, never):
            if isinstance(event, events.BlockSaved):
                flip(weights)
    assert caught.value.code == "SOURCE_CHANGED" and "model.safetensors" in caught.value.message
    weights.write_bytes(good)
    assert next(e.resumed_at for e in run(job, work) if isinstance(e, events.RunStarted)) == 1


def test_what_will_not_fit_is_refused_unless_forced(tmp_path, text, monkeypatch):
    job = job_for(tiny_model(tmp_path), tmp_path / "out", text)
    for name, code in {"free_bytes": "DISK_FULL", "free_memory": "HOST_MEMORY"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(room, name, lambda _: 1000)
            with pytest.raises(QuipError) as caught:
                run(job, tmp_path / "work")
            assert caught.value.code == code
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(room, "free_memory", lambda _: 1000)
    run(replace(job, force=True), tmp_path / "work")


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
        fail("WIDTH_UNSUPPORTED", name=name, reason="it is all noise", remedy="None.")

    monkeypatch.setattr(block_work, "quantize_weight", fails)
    with pytest.raises(QuipError) as caught:
        run(job_for(tiny_model(tmp_path), tmp_path / "out", text), tmp_path / "work")
    assert caught.value.code == "NOTHING_QUANTIZED"
    assert "all noise" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_where_the_gpu_is_full_a_block_is_done_again_with_fewer_tokens(tmp_path, text, monkeypatch):
    job, real, times = job_for(tiny_model(tmp_path), tmp_path / "out", text), block_work.block_hessians, []

    def full(block, index, activations, *rest):
        times.append(activations.calls(index))
        if len(times) in (1, 2, 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(block, index, activations, *rest)

    monkeypatch.setattr(block_work, "block_hessians", full)
    found = run(job, tmp_path / "work")
    told = [e.message for e in found if isinstance(e, events.Warned) and e.code == "GPU_MEMORY"]
    assert [text.split(" tokens")[0] for text in told] == [
        "Block 0 again, with 128",
        "Block 0 again, with 64",
        "Block 1 again, with 32",
    ]
    assert isinstance(found[-1], events.RunFinished)


def test_a_gpu_that_stays_full_is_named(tmp_path, text, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(QuipError) as caught:
        patch.setattr(block_work, "block_hessians", full)
        run(job_for(tiny_model(tmp_path), tmp_path / "out", text), tmp_path / "work")
    assert caught.value.code == "GPU_MEMORY" and "0.5 GB" in caught.value.message
    run(job_for(tmp_path / "tiny-llama", tmp_path / "out", text), tmp_path / "work")


def test_too_many_fallbacks_end_a_run(tmp_path, text, monkeypatch):
    real = block_work.quantize_weight

    def fails_on_values(W, H, recipe, *, name, **rest):
        if name.endswith("v_proj"):
            fail("QUANT_UNSTABLE", name=name, reason="it is all noise")
        return real(W, H, recipe, name=name, **rest)

    monkeypatch.setattr(block_work, "quantize_weight", fails_on_values)
    job = job_for(tiny_model(tmp_path), tmp_path / "out", text)
    with pytest.raises(QuipError) as caught:
        run(job, tmp_path / "work")
    assert caught.value.code == "QUANT_UNSTABLE" and "1 of 14 layers" in caught.value.message
    with pytest.raises(QuipError, match="1 of 14 layers"):  # no block later
        run(job, tmp_path / "work")
    run(replace(job, fallbacks=0.2), tmp_path / "work")
    assert read_manifest(tmp_path / "out")["fallbacks"] == [f"model.layers.{i}.self_attn.v_proj" for i in range(2)]
