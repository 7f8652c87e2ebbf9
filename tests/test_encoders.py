"""BERT in the forms its files come in, from a folder to vectors that agree with the original's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENCODERS, FAMILIES, edit_json, made_up_text, tiny_model
from packed_models import IDS, packed, packed_layers, same_tensors
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertConfig

from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.encoders import embed, framed, leave_out_pooler
from quip_engine.errors import QuipError
from quip_engine.loading import load_model
from quip_engine.pipeline import quantize_model
from quip_engine.plan import make_plan
from quip_engine.probe import probe

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


def job_for(folder: Path, tmp_path: Path) -> JobConfig:
    text = tmp_path / "calibration.txt"
    text.write_text(made_up_text(2000))
    calibration = CalibrationConfig(str(text), 8, 32)
    return JobConfig(str(folder), str(tmp_path / "out"), calibration=calibration, threads=1)


def quantized(folder: Path, tmp_path: Path) -> Path:
    list(quantize_model(job_for(folder, tmp_path), tmp_path / "work", lambda: False))
    return tmp_path / "out"


def renamed(folder: Path, change) -> None:
    tensors = {change(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def masked(tmp_path: Path) -> Path:
    """The folder of a model with the head of its training: ``bert.`` before every name, ``cls.``, no pooler."""
    folder = tiny_model(tmp_path, "bert")
    config = BertConfig.from_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_model_with_the_head_of_its_training(tmp_path: Path) -> None:
    """The head is left out with a warning; a pooler that is not in the files is not made up."""
    folder = masked(tmp_path)
    stored = load_file(folder / WEIGHTS)
    assert any(name.startswith("cls.") for name in stored) and not any("pooler" in name for name in stored)
    facts = probe(str(folder))
    assert "TENSOR_EXTRA" in dict(facts.warnings)
    assert len(facts.linear_layers) == 12
    out = quantized(folder, tmp_path)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert config["auto_map"] == {"AutoModel": "modeling_quip.QuipModel"}
    model = AutoModel.from_pretrained(out)
    assert model.pooler is None
    assert len(packed_layers(model)) == 12
    assert model(IDS).pooler_output is None
    model.save_pretrained(tmp_path / "again")
    assert same_tensors(AutoModel.from_pretrained(tmp_path / "again"), model)


def test_a_pooler_in_the_files_stays(tmp_path: Path) -> None:
    out, dense = packed(tmp_path, "bert")
    model = AutoModel.from_pretrained(out)
    assert torch.equal(model.pooler.dense.weight, dense.pooler.dense.weight)
    leave_out_pooler(model, ["encoder.layer.0.output.dense.weight"])
    assert model.pooler is None


def test_names_of_the_first_files(tmp_path: Path) -> None:
    """``gamma`` and ``beta`` of the norms, ``position_ids`` among the tensors."""
    folder = tiny_model(tmp_path, "bert")
    whole = AutoModel.from_pretrained(folder)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed(folder, lambda name: "bert." + next((name.replace(a, b) for a, b in old.items() if a in name), name))
    tensors = load_file(folder / WEIGHTS)
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    edit_json(folder / "config.json", architectures=["BertForMaskedLM"])
    assert probe(str(folder)).warnings == []
    model = AutoModel.from_pretrained(quantized(folder, tmp_path))
    assert torch.equal(model.embeddings.LayerNorm.weight, whole.embeddings.LayerNorm.weight)
    assert torch.equal(model.pooler.dense.weight, whole.pooler.dense.weight)


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "BertForPreTraining", "BertLMHeadModel"])
def test_other_tasks_are_refused(tmp_path: Path, architecture: str) -> None:
    folder = tiny_model(tmp_path, "bert")
    edit_json(folder / "config.json", architectures=[architecture])
    with pytest.raises(QuipError) as caught:
        probe(str(folder))
    assert caught.value.code == "NOT_A_CHAT_MODEL"


def test_a_checkpoint_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    out, _ = packed(tmp_path, "bert")
    assert load_model(out, CPU, encoder=True)[0].dtype == torch.float32
    with pytest.raises(QuipError) as caught:
        load_model(out, CPU)
    assert caught.value.code == "NOT_A_CHAT_MODEL"
    with pytest.raises(QuipError, match="is missing"):  # never a head of random weights
        AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_what_writes_text_is_no_encoder(tmp_path: Path, family: str) -> None:
    with pytest.raises(QuipError) as caught:
        load_model(tiny_model(tmp_path, family), CPU, encoder=True)
    assert caught.value.code == "NOT_AN_ENCODER"


def test_vectors_are_of_length_one_and_need_no_padding(tmp_path: Path) -> None:
    model, _ = load_model(tiny_model(tmp_path, *ENCODERS), CPU, encoder=True)
    texts = [[5, 6, 7], [5, 6, 7, 8, 9], [5, 6, 7]]
    vectors = embed(model, texts)
    assert vectors.shape == (3, 32)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert torch.equal(vectors[0], vectors[2])
    expected = torch.nn.functional.normalize(states_of(model, texts[1]).mean(0), dim=0)
    torch.testing.assert_close(vectors[1], expected)


def states_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0]


def test_calibration_reads_what_the_encoder_will_read(tmp_path: Path) -> None:
    """Windows begin with [CLS] and end with [SEP], where the tokenizer has them."""
    folder = tiny_model(tmp_path, "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(framed(tokens, tokenizer), tokens)
    edit_json(folder / "tokenizer_config.json", cls_token="A", sep_token="B")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cls, sep = tokenizer.convert_tokens_to_ids(["A", "B"])
    assert framed(tokens, tokenizer).tolist() == [[cls, 1, 2, 3, 4, sep], [cls, 7, 8, 9, 10, sep]]
    windows = make_plan(job_for(folder, tmp_path)).tokens
    assert set(windows[:, 0].tolist()) == {cls} and set(windows[:, -1].tolist()) == {sep}


@pytest.mark.parametrize("family", [*ENCODERS, "mixtral"])
def test_a_trusted_folder_loads_by_its_own_file(tmp_path: Path, family: str) -> None:
    out, _ = packed(tmp_path, family)
    auto = "AutoModel" if family in ENCODERS else "AutoModelForCausalLM"
    code = (
        f"from transformers import {auto} as A\n"
        f"print(type(A.from_pretrained({str(out)!r}, trust_remote_code=True)).__mro__[1].__name__)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HOME": str(tmp_path / "hub"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["BertModel" if family in ENCODERS else "MixtralForCausalLM"]
    assert auto in (out / "README.md").read_text()
