"""Corrected targets: they are the ridge regression they claim to be, and a model rounded to them predicts better."""

import copy

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events
from quip_engine.activations import Activations
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.correction import DAMPING, Twin, _input
from quip_engine.errors import Stopped
from quip_engine.files import sha256
from quip_engine.pipeline import quantize_model
from quip_engine.skeleton import Skeleton


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text(made_up_text(4000))
    return path


@pytest.fixture
def twin(tmp_path):
    return twin_of(tmp_path, torch.float32)


def twin_of(folder, stored):
    skeleton = Skeleton(tiny_model(folder, "llama", dtype=torch.bfloat16), torch.device("cpu"))
    skeleton.load_outside()
    tokens = torch.randint(0, 256, (24, 32), generator=torch.Generator().manual_seed(0))
    before = Activations(skeleton, tokens)
    now = before.twin(
        before.hidden + 0.1 * torch.randn(before.hidden.shape, generator=torch.Generator().manual_seed(1))
    )
    return Twin(skeleton.load_block(0), 0, now, before, stored)


def test_groups_are_layers_that_read_one_input_in_order(twin):
    groups = [[name.rpartition(".")[2] for name in names] for names in twin.groups()]
    assert groups == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_are_the_ridge_regression(twin, weighted):
    weights = torch.rand(24, 32, generator=torch.Generator().manual_seed(2)) if weighted else None
    names = twin.groups()[0]
    found = twin.corrected(names, weights)
    inputs = list(twin._inputs(names[0]))
    x, x_now = (torch.cat([each[k] for each in inputs]).double() for k in (1, 2))
    w = torch.ones(len(x)).double() if weights is None else weights.flatten().double()
    H = (x_now * w[:, None]).T @ x_now / len(x)
    assert torch.allclose(found.H.double(), H, rtol=1e-4, atol=1e-6)
    ridge = H + DAMPING * H.diagonal().mean() * torch.eye(len(H))
    for name in names:
        W = weight_of(twin.original.get_submodule(name)).double()
        cross = ((x - x_now) @ W.T * w[:, None]).T @ x_now / len(x)
        assert torch.allclose(found.targets[name].double(), W + cross @ ridge.inverse(), atol=1e-4)


def test_weights_wait_in_the_type_of_their_file(tmp_path):
    wide, narrow = twin_of(tmp_path / "wide", torch.float32), twin_of(tmp_path / "narrow", torch.bfloat16)
    expected = wide.before.twin()
    expected.advance(wide.original, 0)
    groups = wide.groups()
    for names in groups:
        first, second = (twin.corrected(names, None, last=names is groups[-1]) for twin in (wide, narrow))
        assert all(torch.equal(first.targets[name], second.targets[name]) for name in names)
        assert {module.weight.dtype for module in linear_modules(narrow.block).values()} == {torch.bfloat16}
    assert not list(narrow.original.parameters())
    assert torch.equal(narrow.before.hidden, expected.hidden)


def test_the_twin_has_the_same_weights_but_not_the_same_layers(twin):
    name, module = next(iter(linear_modules(twin.block).items()))
    assert twin.original.get_submodule(name).weight is module.weight
    twin.block.set_submodule(name, torch.nn.Identity())
    assert twin.original.get_submodule(name).weight is module.weight
    run = next(iter(twin.before.batches(0)))[1]
    assert _input(twin.original, name, run).shape[1] == weight_of(module).shape[1]


def job_for(model, out, text, targets, **changes):
    recipe = RecipeConfig("quip#", 2, options={"targets": targets})
    return JobConfig(str(model), str(out), recipe, CalibrationConfig(str(text), 32, 32), threads=1, **changes)


def run(job, workspace, stop=lambda: False):
    return list(quantize_model(job, workspace, stop))


@pytest.mark.parametrize(("family", "shape"), [("llama", {"hidden_size": 64}), ("gpt2", {}), ("bert", {})])
def test_outputs_come_nearer_to_the_original(tmp_path, text, family, shape):
    model = tiny_model(tmp_path, family, **shape)
    drifts = {}
    for targets in ("original", "corrected"):
        run(job_for(model, tmp_path / targets, text, targets), tmp_path / "work")
        drifts[targets] = drift(model, tmp_path / targets)
    assert drifts["corrected"] < 0.95 * drifts["original"]  # measured: .88, .65


@pytest.mark.parametrize("family", ["gemma2", "mixtral"])
def test_experts_and_norms_after_layers(tmp_path, text, family):
    found = run(job_for(tiny_model(tmp_path, family), tmp_path / "out", text, "corrected"), tmp_path / "work")
    layers = [event for event in found if isinstance(event, events.LayerQuantized)]
    assert len(layers) == {"gemma2": 14, "mixtral": 32}[family]
    assert not [event for event in found if isinstance(event, events.LayerSkipped)]


@torch.no_grad()
def drift(model, out):
    """Relative squared distance of the last hidden states, on other tokens than those of calibration."""
    from transformers import AutoModel

    tokens = torch.tensor([list(made_up_text(4400).encode()[-1024:])]).view(-1, 32)
    first, second = (AutoModel.from_pretrained(path)(tokens).last_hidden_state for path in (model, out))
    return float((second - first).square().sum() / first.square().sum())


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, text):
    model = tiny_model(tmp_path, "llama", num_hidden_layers=3)
    run(job_for(model, tmp_path / "whole", text, "corrected"), tmp_path / "work-whole")
    asked = iter([False] * 12 + [True] * 100)
    job = job_for(model, tmp_path / "out", text, "corrected")
    with pytest.raises(Stopped):
        run(job, tmp_path / "work", lambda: next(asked))
    found = run(copy.deepcopy(job), tmp_path / "work")
    assert next(e for e in found if isinstance(e, events.RunStarted)).resumed_at > 0
    digests = [{path.name: sha256(path) for path in (tmp_path / name).iterdir()} for name in ("whole", "out")]
    assert digests[0] == digests[1]
