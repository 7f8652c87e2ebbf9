"""One layer as a problem: the same H as a whole model gives, kept, found again, and never too much of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model
from transformers import AutoModelForCausalLM

from quip_engine import problem
from quip_engine.calibration import calibration_windows
from quip_engine.config import CalibrationConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.loading import load_tokenizer
from quip_engine.probe import ModelFacts, probe
from quip_engine.problem import find_layer, layer_problem, stream_problem


@pytest.fixture
def facts(tmp_path: Path) -> ModelFacts:
    return probe(str(tiny_model(tmp_path, num_hidden_layers=3)))


@pytest.fixture
def text(tmp_path: Path) -> CalibrationConfig:
    path = tmp_path / "text.txt"
    path.write_text(made_up_text(2000), encoding="utf-8")
    return CalibrationConfig(str(path), samples=4, seqlen=32)


def test_the_problem_is_that_of_the_whole_model(facts: ModelFacts, text: CalibrationConfig, tmp_path: Path) -> None:
    layer = find_layer(facts, "2.down_proj")
    found = layer_problem(facts, layer, text, home=tmp_path / "home")
    model = AutoModelForCausalLM.from_pretrained(facts.path).eval()
    module, seen = model.get_submodule(layer.name), []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    tokens = calibration_windows(load_tokenizer(Path(facts.path)), text, 0, facts.context).tokens
    with torch.no_grad():
        model(tokens)
    X = torch.cat(seen)
    assert torch.equal(found.W, module.weight)
    assert torch.allclose(found.H, X.T @ X / len(X), rtol=1e-4, atol=1e-6 * float(found.H.max()))
    assert torch.equal(found.H, found.H.T)


def test_a_problem_is_kept_and_the_next_starts_at_its_block(
    facts: ModelFacts, text: CalibrationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    first = layer_problem(facts, find_layer(facts, "1.q_proj"), text, home=home)
    steps = list(stream_problem(facts, find_layer(facts, "2.o_proj"), text, home=home))
    assert steps == [(1, 2), (2, 2)]  # block 0 is passed already
    monkeypatch.setattr(problem, "Skeleton", lambda *_: pytest.fail("the model was read again"))
    again = layer_problem(facts, find_layer(facts, "1.q_proj"), text, home=home)
    assert torch.equal(again.W, first.W)
    assert torch.equal(again.H, first.H)


def test_starting_in_the_middle_changes_nothing(facts: ModelFacts, text: CalibrationConfig, tmp_path: Path) -> None:
    layer = find_layer(facts, "2.up_proj")
    direct = layer_problem(facts, layer, text, home=tmp_path / "a")
    layer_problem(facts, find_layer(facts, "1.v_proj"), text, home=tmp_path / "b")
    assert torch.equal(layer_problem(facts, layer, text, home=tmp_path / "b").H, direct.H)


def test_other_weights_or_texts_are_other_problems(facts: ModelFacts, text: CalibrationConfig, tmp_path: Path) -> None:
    layer, home = find_layer(facts, "0.q_proj"), tmp_path / "home"
    first = layer_problem(facts, layer, text, home=home).file
    assert layer_problem(facts, layer, text, home=home, seed=1).file != first
    assert layer_problem(facts, layer, CalibrationConfig(text.source, 5, 32), home=home).file != first
    os.utime(Path(facts.path) / "model.safetensors", (1, 1))
    assert layer_problem(facts, layer, text, home=home).file != first


def test_the_oldest_go_first(
    facts: ModelFacts, text: CalibrationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    files = [layer_problem(facts, find_layer(facts, f"0.{name}_proj"), text, home=home).file for name in "qkv"]
    os.utime(files[0], (1, 1))
    os.utime(files[1], (2, 2))
    monkeypatch.setattr(problem, "KEPT_BYTES", sum(path.stat().st_size for path in files))
    files.append(layer_problem(facts, find_layer(facts, "0.o_proj"), text, home=home).file)
    assert [path.exists() for path in files] == [False, True, True, True]


def test_a_damaged_file_is_made_again(facts: ModelFacts, text: CalibrationConfig, tmp_path: Path) -> None:
    layer, home = find_layer(facts, "1.q_proj"), tmp_path / "home"
    first = layer_problem(facts, layer, text, home=home)
    for path in first.file.parent.iterdir():
        path.write_bytes(b"nothing")
    assert torch.equal(layer_problem(facts, layer, text, home=home).H, first.H)


def test_it_stops_after_a_block(facts: ModelFacts, text: CalibrationConfig, tmp_path: Path) -> None:
    steps = stream_problem(facts, find_layer(facts, "2.q_proj"), text, home=tmp_path / "home", stop=lambda: True)
    assert next(steps) == (0, 2)
    with pytest.raises(Stopped):
        next(steps)


def test_experts_with_few_tokens_have_a_problem_too(text: CalibrationConfig, tmp_path: Path) -> None:
    facts = probe(str(tiny_model(tmp_path, "mixtral")))
    layer = next(layer for layer in facts.linear_layers if ".experts.3.down_proj" in layer.name)
    found = layer_problem(facts, layer, text, home=tmp_path / "home")
    assert found.W.shape == layer.shape
    assert float(found.H.diagonal().min()) > 0


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_other_families(text: CalibrationConfig, tmp_path: Path, family: str) -> None:
    facts = probe(str(tiny_model(tmp_path, family)))
    layer = facts.linear_layers[-1]
    found = layer_problem(facts, layer, text, home=tmp_path / "home")
    assert found.W.shape == layer.shape
    assert found.H.shape == (layer.shape[1],) * 2


def test_an_unknown_layer_is_refused(facts: ModelFacts) -> None:
    for name in ("q_proj", "9.q_proj", "", "model.layers.0"):
        with pytest.raises(QuipError, match="is not possible") as error:
            find_layer(facts, name)
        assert error.value.code == "BAD_SETTING"
    assert find_layer(facts, "model.layers.1.mlp.down_proj").block == 1
