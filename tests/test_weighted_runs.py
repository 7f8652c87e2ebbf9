"""Runs that weigh errors by gradients: stopped anywhere they go on to the same bits; what is left out is named."""

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events, pipeline
from quip_engine.checkpoint import read_manifest
from quip_engine.codebooks.shaping import SEGMENT
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.files import sha256
from quip_engine.methods import resolve
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


# before and in both directions of the gradient, then blocks
@pytest.mark.parametrize(
    ("stop_after", "hessian"), [*((n, "weighted") for n in (0, 2, 3, 4, 8, 16)), *((n, "two-sided") for n in (3, 8))]
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, text, stop_after, hessian):
    model = tiny_model(tmp_path, "llama", **SHAPE)
    recipe = RecipeConfig("waterfill", 3, options={"sides": "input", "L": 8, "hessian": hessian})
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
        assert (space.values() is not None) == (stop_after >= 6)
    notes = [e.note for e in run(job, tmp_path / "work") if isinstance(e, events.PhaseChanged) if ": block" in e.note]
    redone = 1 if 0 < stop_after < 3 else 0  # the block behind the last states that are kept
    assert len(notes) == max(0, 6 - stop_after + redone)  # of three blocks in two directions
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


@pytest.mark.parametrize(("family", "shape"), [("llama", SHAPE), ("gpt2", {}), ("qwen3_moe", {})])
def test_outputs_mend_each_others_errors_in_layers_that_are_not_wide(tmp_path, text, family, shape):
    model, found = tiny_model(tmp_path, family, **shape), {}
    for hessian in ("weighted", "two-sided"):
        options = {"hessian": hessian, "sides": "none", "L": 8, "targets": "original", "inputs": "original"}
        job = job_for(model, tmp_path / f"out-{hessian}", text, RecipeConfig("waterfill", 3, options=options))
        found[hessian] = quantized(run(job, tmp_path / f"work-{hessian}"))
    for a, b in zip(*found.values(), strict=True):
        (m, n) = a.shape
        if m > n or m > SEGMENT:  # with a single stretch, it is a matter of rounding
            assert (a.rel_proxy == b.rel_proxy) == (m > n)


def test_a_plain_run_takes_no_gradient(tmp_path, text, monkeypatch):
    monkeypatch.setattr(pipeline, "measure", None)
    model = tiny_model(tmp_path, "llama")
    assert quantized(run(job_for(model, tmp_path / "out", text, RecipeConfig("quip#", 2)), tmp_path / "work"))


def test_an_encoder_is_quantized_without_weights(tmp_path, text):
    model = tiny_model(tmp_path, "bert")
    found = run(job_for(model, tmp_path / "out", text, RecipeConfig("qtip", 2, options={"L": 8})), tmp_path / "work")
    assert "NO_PREDICTIONS" in [event.code for event in found if isinstance(event, events.Warned)]
    assert read_manifest(tmp_path / "out")["recipe"]["hessian"] == "plain"


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


def test_mixing_gives_tokens_a_share_of_one(tmp_path, text):
    model = tiny_model(tmp_path, "llama", **SHAPE)
    options = {"": {}, "mixed": {"mixing": 0.5}, "all": {"mixing": 1.0}, "plain": {"hessian": "plain"}}
    found = {}
    for name, chosen in options.items():
        recipe = RecipeConfig("quip#", 2, options={"hessian": "weighted"} | chosen)
        layers = quantized(run(job_for(model, tmp_path / f"out-{name}", text, recipe), tmp_path / f"work-{name}"))
        found[name] = layers[0].rel_proxy
    assert found["all"] == pytest.approx(found["plain"], rel=0.02)  # outputs still count differently; measured: equal
    assert found[""] != found["mixed"] != found["all"]


@pytest.mark.parametrize("inputs", ["sequential", "original"])
def test_whose_inputs_hessians_are_of(tmp_path, text, inputs, monkeypatch):
    """Behind the original, a block is calibrated alike whatever was done to those before it."""
    model = tiny_model(tmp_path, "llama", **SHAPE)
    seen = []
    monkeypatch.setattr("quip_engine.block_work.eigenvectors", lambda H: seen.append(H.clone()))
    for bits in (2, 4):
        recipe = RecipeConfig("quip#", bits, options={"inputs": inputs})
        run(job_for(model, tmp_path / f"{bits}", text, recipe), tmp_path / f"work-{bits}")
    half = len(seen) // 2
    alike = [torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True)]
    assert all(alike) if inputs == "original" else alike == [True] * (half // 3) + [False] * (half - half // 3)


@pytest.mark.parametrize("options", [{"mixing": 0.5}, {"inputs": "original", "targets": "corrected"}])
def test_options_without_effect_are_refused(options):
    with pytest.raises(QuipError, match=r"mixed|corrected"):
        resolve(RecipeConfig("quip#", 2, options=options))
