"""Runs that weigh errors by gradients: stopped anywhere they go on to the same bits; what is left out is named."""

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events, pipeline
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.files import sha256
from quip_engine.pipeline import quantize_model
from quip_engine.workspace import Workspace

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text(made_up_text(2000))
    return path


def job_for(model, out, text, recipe, **changes):
    calibration = CalibrationConfig(str(text), samples=8, seqlen=32)
    return JobConfig(str(model), str(out), recipe, calibration, **{"threads": 1, **changes})


def run(job, workspace, stop=lambda: False):
    return list(quantize_model(job, workspace, stop))


def digests(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def quantized(found):
    return [event for event in found if isinstance(event, events.LayerQuantized)]


@pytest.mark.parametrize("stop_after", [0, 2, 4, 8, 16])  # before and in both directions of the gradient, then blocks
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, text, stop_after):
    model = tiny_model(tmp_path, "llama", **SHAPE)
    recipe = RecipeConfig("waterfill", 3, options={"sides": "input", "L": 8})
    run(job_for(model, tmp_path / "whole", text, recipe), tmp_path / "work-whole")
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked > stop_after

    job = job_for(model, tmp_path / "out", text, recipe)
    with pytest.raises(Stopped):
        run(job, tmp_path / "work", stop)
    with Workspace(tmp_path / "work") as space:
        measured = space.values() is not None
    notes = [e.note for e in run(job, tmp_path / "work") if isinstance(e, events.PhaseChanged)]
    assert measured == (stop_after > 6)
    assert any("backward" in note for note in notes) != measured  # not measured twice
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not (tmp_path / "work").exists()


def test_layers_get_the_bits_they_are_worth(tmp_path, text):
    model = tiny_model(tmp_path, "llama", **SHAPE)
    *_, finished = found = run(
        job_for(model, tmp_path / "out", text, RecipeConfig("waterfill", 3, options={"L": 8, "sides": "input"})),
        tmp_path / "work",
    )
    bits = [event.bits_per_weight for event in quantized(found)]
    assert max(bits) > 3.2 and min(bits) < 2.8
    assert 3 * 0.999 < finished.bits_per_weight <= 3
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["recipe"]["hessian"], manifest["recipe"]["spread"]) == ("weighted", 0.75)


def test_whole_bits_of_qtip(tmp_path, text):
    model = tiny_model(tmp_path, "llama", **SHAPE)
    found = run(job_for(model, tmp_path / "out", text, RecipeConfig("qtip", 2, options={"L": 8})), tmp_path / "work")
    assert len({round(event.bits_per_weight) for event in quantized(found)}) > 1


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3_moe"])
def test_every_kind_of_model_can_be_weighed(tmp_path, text, family):
    recipe = RecipeConfig("quip#", 2, options={"hessian": "weighted"})
    model = tiny_model(tmp_path, family)
    weighed = quantized(run(job_for(model, tmp_path / "out", text, recipe), tmp_path / "work"))
    plain = quantized(run(job_for(model, tmp_path / "plain", text, RecipeConfig("quip#", 2)), tmp_path / "work"))
    assert [event.name for event in weighed] == [event.name for event in plain]
    alike = [a.name for a, b in zip(weighed, plain, strict=True) if a.rel_proxy == b.rel_proxy]
    assert all(".experts." in name for name in alike)  # some of the tokens, which count alike


def test_a_plain_run_takes_no_gradient(tmp_path, text, monkeypatch):
    monkeypatch.setattr(pipeline, "measure", None)
    model = tiny_model(tmp_path, "llama")
    assert quantized(run(job_for(model, tmp_path / "out", text, RecipeConfig("quip#", 2)), tmp_path / "work"))


def test_an_encoder_is_quantized_without_weights(tmp_path, text):
    model = tiny_model(tmp_path, "bert")
    found = run(job_for(model, tmp_path / "out", text, RecipeConfig("qtip", 2, options={"L": 8})), tmp_path / "work")
    assert "NO_PREDICTIONS" in [event.code for event in found if isinstance(event, events.Warned)]
    assert read_manifest(tmp_path / "out")["recipe"]["hessian"] == "plain"


def test_gradients_that_are_not_finite_end_the_run_by_name(tmp_path, text):
    model = tiny_model(tmp_path, "llama", dtype=torch.float32)
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"].fill_(1e30)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    job = job_for(model, tmp_path / "out", text, RecipeConfig("qtip", 2, options={"L": 8}))
    with pytest.raises(QuipError) as caught:
        run(job, tmp_path / "work")
    assert caught.value.code == "NO_GRADIENT"


def test_damaged_sensitivities_are_found_before_they_are_used(tmp_path, text):
    model = tiny_model(tmp_path, "llama")
    job = job_for(model, tmp_path / "out", text, RecipeConfig("qtip", 2, options={"L": 8}))
    seen = []
    with pytest.raises(Stopped):
        for event in quantize_model(job, tmp_path / "work", lambda: events.PhaseChanged("quantize") in seen):
            seen.append(event)
    with Workspace(tmp_path / "work") as space:
        path = space.kept("sensitivity-00000").path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(QuipError) as caught:
        run(job, tmp_path / "work")
    assert caught.value.code == "CHECKPOINT_DAMAGED"
