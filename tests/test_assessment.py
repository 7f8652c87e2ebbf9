"""An evaluation from names to events."""

import json
from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events
from quip_engine.assessment import describe, evaluate_model
from quip_engine.config import EvaluationConfig
from quip_engine.errors import QuipError
from quip_engine.evaluate import evaluate, windows
from quip_engine.loading import load_model


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(made_up_text(100), encoding="utf-8")
    return path


def test_its_figures_are_those_of_evaluate(tmp_path: Path, text: Path) -> None:
    folder, other = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b", seed=1)
    job = EvaluationConfig(str(folder), str(other), str(text), seqlen=32, windows=5, device="cpu")
    found = list(evaluate_model(job))
    started, finished = found[0], found[-1]
    assert isinstance(started, events.EvaluationStarted)
    assert (started.windows, started.seqlen, started.blocks, started.text) == (5, 32, 2, "story.txt")
    assert (len(started.layers), started.layer_windows) == (14, 1)

    (model, tokenizer), (original, _) = (load_model(f, torch.device("cpu")) for f in (folder, other))
    tokens = windows(tokenizer, text.read_text(), 32)[:5]
    expected = evaluate(model, tokens, original)
    assert isinstance(finished, events.EvaluationFinished)
    assert finished.figures == expected.figures()
    assert finished.tokens == 5 * 31
    scored = [event for event in found if isinstance(event, events.WindowScored)]
    assert [event.windows for event in scored] == [1, 2, 3, 4, 5]
    assert scored[-1].figures == expected.figures()
    assert [event.block for event in found if isinstance(event, events.BlockCompared)] == [0, 1]
    assert sum(isinstance(event, events.LayerCompared) for event in found) == 14
    assert len(finished.layers) == 14
    assert finished.positions[-1]["last"] == 31
    assert finished.model["bits_per_weight"] == 32.0
    for event in found:
        record = json.loads(json.dumps(events.to_json(event), allow_nan=False))
        assert events.to_json(events.from_json(record)) == record


def test_without_an_original_there_is_perplexity_alone(tmp_path: Path, text: Path) -> None:
    job = EvaluationConfig(str(tiny_model(tmp_path)), text=str(text), seqlen=16, windows=2, device="cpu")
    kinds = [type(event).__name__ for event in evaluate_model(job)]
    assert kinds == ["EvaluationStarted", "WindowScored", "WindowScored", "EvaluationFinished"]


def test_models_of_another_depth_have_figures_but_no_blocks(tmp_path: Path, text: Path) -> None:
    folder, other = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b", num_hidden_layers=3)
    job = EvaluationConfig(str(folder), str(other), str(text), seqlen=16, windows=2, layers=False, device="cpu")
    *_, finished = evaluate_model(job)
    assert finished.blocks == []
    assert finished.figures["mean_kl"] > 0
    assert "same blocks" in finished.notes[0]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"seqlen": 65}, "BAD_SETTING"),
        ({"text": "/no/such/file"}, "NOT_FOUND"),
        ({"model": "/no/such/folder"}, "NOT_FOUND"),
        ({"against": "/no/such/folder"}, "NOT_FOUND"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: Path, changes: dict, code: str) -> None:
    values = {"model": str(tiny_model(tmp_path)), "text": str(text), "seqlen": 16, "device": "cpu", **changes}
    with pytest.raises(QuipError) as caught:
        list(evaluate_model(EvaluationConfig(**values)))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"seqlen": 1},
        {"seqlen": 2.5},
        {"windows": 0},
        {"questions": 0},
        {"device": "tpu"},
        {"threads": 0},
        {"text": " "},
    ],
)
def test_settings_are_checked(changes: dict) -> None:
    with pytest.raises(QuipError):
        EvaluationConfig("model", **changes)
    assert EvaluationConfig.from_json(EvaluationConfig("m", tasks=("piqa",)).to_json()).tasks == ("piqa",)


def test_a_checkpoint_is_described_by_its_manifest(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "quip"}}))
    assert describe(folder, torch.device("cpu"))["bits_per_weight"] is None  # no manifest says
    manifest = {"bits_per_weight": 2.01, "bits": 2, "method": "quip#", "files": {}}
    (folder / "quip_manifest.json").write_text(json.dumps(manifest))
    facts = describe(folder, torch.device("cpu"))
    assert (facts["bits_per_weight"], facts["bits"], facts["method"]) == (2.01, 2, "quip#")
