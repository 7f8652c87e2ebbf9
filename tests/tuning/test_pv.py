"""PV-Tuning: gradients reach codes, steps stay small, KL falls below what floats alone reach, stops cost nothing."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import made_up_text, tiny_model
from safetensors.torch import load_file

from quip_engine import events
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.files import sha256
from quip_engine.layer import quantize_weight
from quip_engine.linear import QuantizedLinear
from quip_engine.methods.registry import resolve
from quip_engine.pipeline import Stopped, quantize_model
from quip_engine.plan import make_plan
from quip_engine.tuning import coded as coding
from quip_engine.tuning.coded import CodedLinear
from quip_engine.tuning.cost import memory

TUNING = TuningConfig(("pv",), samples=40, batch=6, steps=8, rate=3e-3)
METHODS = {
    "icquant": {},
    "optq": {},
    "quip": {},
    "qtip": {"L": 8, "code": "levels"},
    "waterfill": {"L": 8, "sides": "input"},
}


def layer_of(method, m=160, n=128):
    generator = torch.Generator().manual_seed(1)
    W, X = torch.randn(m, n, generator=generator), torch.randn(4 * n, n, generator=generator)
    options = METHODS[method] | ({"hessian": "plain", "targets": "original"} if method == "waterfill" else {})
    recipe = resolve(RecipeConfig(method, 3, options=options))
    return QuantizedLinear.from_quantized(quantize_weight(W, X.T @ X, recipe)), W, X


def decoded(layer):
    codes = layer.packed()
    return codes.codebook.decode(codes.tensors, codes.m, codes.n).detach()


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_codes_is_that_of_their_weights(method):
    packed, W, X = layer_of(method)
    layer = CodedLinear(packed, W)
    (layer(X) - X @ W.T).square().sum().backward()
    leaf, maps = decoded(packed).requires_grad_(), packed.maps()
    (maps.on_output(maps.on_input(X) @ leaf.T) - X @ W.T).square().sum().backward()
    G = leaf.grad
    r, c = (G.square().mean(axis).sqrt() for axis in (1, 0))
    expected = G / r[:, None] / c * G.square().mean().sqrt()
    torch.testing.assert_close(layer._normalized(0), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_scale_that_was_trained_counts_once(method):
    packed, W, X = layer_of(method)
    layer = CodedLinear(packed, W)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in packed.tensors():
                parameter.mul_(1.1)
    before = layer(X)
    layer.take_codes(layer.codes.clone())
    torch.testing.assert_close(layer(X), before)
    torch.testing.assert_close(layer.settled()(X), before, rtol=1e-2, atol=1e-2 * float(before.detach().std()))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_few_codes_and_no_farther_than_it_is_trusted(method):
    packed, W, X = layer_of(method)
    layer = CodedLinear(packed, W)
    before = decoded(packed)
    for step in range(4):
        earlier = decoded(packed)
        layer.gradient.zero_()
        loss = (layer(X) - X @ W.T).square().mean()
        loss.backward()
        layer.advance(step, 1.0)
        assert (decoded(packed) - earlier).norm() <= 1.001 * coding.TRUST * earlier.norm()
        torch.testing.assert_close(layer(X), packed(X), rtol=1e-3, atol=1e-3)
    assert not decoded(packed).equal(before)


@pytest.mark.parametrize("method", METHODS)
def test_codes_follow_a_target_that_has_moved(method, monkeypatch):
    """Outputs are to be those of other weights, of which a matrix of rank 4 is new."""
    monkeypatch.setattr(coding, "TRUST", 0.15)
    packed, W, X = layer_of(method)
    generator = torch.Generator().manual_seed(2)
    u, v = torch.randn(len(W), 4, generator=generator), torch.randn(4, W.shape[1], generator=generator)
    y = X @ (W + 0.25 * u @ v).T
    layer, losses = CodedLinear(packed, W), []
    for step in range(24):
        layer.gradient.zero_()
        loss = (layer(X) - y).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        layer.advance(step, 1 - step / 24)
    assert losses[-1] < 0.5 * losses[0]  # measured .34 to .45


def test_codes_that_are_nearest_begin_at_the_original_weights():
    nearest, W, _ = layer_of("icquant")
    assert (CodedLinear(nearest, W).buffer == W).float().mean() > 0.99
    fed_back, W, _ = layer_of("optq")
    assert 0.5 < (CodedLinear(fed_back, W).buffer == W).float().mean() < 0.97
    path, W, _ = layer_of("waterfill")
    assert CodedLinear(path, W).buffer.equal(decoded(path))


def job_for(tmp_path, model, out="out", **changes):
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(2000))
    calibration = CalibrationConfig(str(text), samples=8, seqlen=24)
    usual = {"recipe": RecipeConfig("icquant", 2), "calibration": calibration, "threads": 1, "tuning": TUNING}
    return JobConfig(str(model), str(tmp_path / out), **{**usual, **changes})


def finished(job, workspace, stop=lambda: False):
    found = list(quantize_model(job, workspace, stop))
    return next(e for e in found if isinstance(e, events.TuningFinished)), found


def codes_of(folder):
    files = map(load_file, sorted(folder.glob("*.safetensors")))
    return {name: tensor for file in files for name, tensor in file.items() if name.endswith(".codes")}


def test_codes_and_floats_reach_less_than_floats_alone(tmp_path):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    P, _ = finished(job_for(tmp_path, model, "P", tuning=replace(TUNING, stages=("end-to-end",))), tmp_path / "work-P")
    PV, _ = finished(job_for(tmp_path, model, "PV"), tmp_path / "work-PV")
    assert PV.taken and PV.kl_before == P.kl_before
    assert PV.kl < P.kl < P.kl_before
    before, after = codes_of(tmp_path / "P"), codes_of(tmp_path / "PV")
    assert any(not after[name].equal(codes) for name, codes in before.items())
    assert all(after[name].shape == codes.shape for name, codes in before.items())


def test_a_stopped_tuning_goes_on_to_the_same_bits(tmp_path):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    finished(job_for(tmp_path, model, "whole"), tmp_path / "work-whole")
    job, tuned = job_for(tmp_path, model), []
    run = quantize_model(job, tmp_path / "work", lambda: len(tuned) >= 3)
    with pytest.raises(Stopped):
        tuned.extend(event for event in run if isinstance(event, events.TuningProgress))
    finished(job, tmp_path / "work")
    shards = [[sha256(file) for file in sorted((tmp_path / out).glob("*.safetensors"))] for out in ("whole", "out")]
    assert shards[0] == shards[1] != []


def test_codebooks_whose_codes_stay_are_told(tmp_path):
    job = job_for(tmp_path, tiny_model(tmp_path, "llama"), recipe=RecipeConfig("quip#", 2))
    result, found = finished(job, tmp_path / "work")
    assert "CODES_STAY" in [e.code for e in found if isinstance(e, events.Warned)]
    assert result.kl <= result.kl_before


def test_memory_of_codes_is_told_before(tmp_path):
    job = job_for(tmp_path, tiny_model(tmp_path, "llama"))
    with_codes, without = (
        make_plan(replace(job, tuning=replace(TUNING, stages=stages))) for stages in (("pv",), ("end-to-end",))
    )
    weights = sum(math.prod(layer.shape) for layer in with_codes.facts.linear_layers)
    assert memory(with_codes) - memory(without) == 16 * weights
