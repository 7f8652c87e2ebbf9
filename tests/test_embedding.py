"""Embeddings and heads in few bits: what is looked up is what is multiplied, tied or not, in every family."""

import copy
import json

import pytest
import torch
from helpers import FAMILIES, edit_json, made_up_text, tiny_model
from transformers import AutoModel, AutoModelForCausalLM

from quip_engine.checkpoint import read_manifest
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.embedding import QuantizedEmbedding, QuantizedHead, decoded, embedding_format, packed_rows
from quip_engine.errors import QuipError
from quip_engine.loading import load_model
from quip_engine.packed import packed_facts
from quip_engine.pipeline import quantize_model
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import ENCODERS, read_config


@pytest.fixture
def made(tmp_path):
    def make(family="llama", bits=8, **shape):
        text = tmp_path / "calibration.txt"
        text.write_text(made_up_text(2000))
        model, out = tiny_model(tmp_path, family, **shape), tmp_path / "out"
        calibration, budget = CalibrationConfig(str(text), samples=4, seqlen=16), BudgetConfig(embeddings=bits)
        job = JobConfig(str(model), str(out), RecipeConfig("nearest", 4), calibration, threads=1, budget=budget)
        *_, finished = quantize_model(job, tmp_path / "work", lambda: False)
        return model, out, finished

    return make


@pytest.mark.parametrize(("bits", "most"), [(4, 1.3e-2), (6, 8e-4), (8, 6e-5)])
def test_rows_come_back(bits, most):
    """Relative squared errors of Gaussian rows measured: 1.1e-2, 6.4e-4, 4.6e-5."""
    W = torch.randn(300, 100, generator=torch.Generator().manual_seed(0))
    form = embedding_format(bits)
    tensors = packed_rows(W, form)
    assert {name: t.dtype for name, t in tensors.items()} == {"codes": torch.uint8, "step": torch.int16}
    back = decoded(tensors, form, 100)
    assert (back - W).square().sum() / W.square().sum() < most
    assert not decoded(packed_rows(torch.zeros(3, 100), form), form, 100).abs().gt(1e-6).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_its_rounded_weights_say(made, family):
    """Largest difference of logits measured over the families: 1e-6."""
    _, out, _ = made(family)
    model, _ = load_model(out, torch.device("cpu"), encoder=family in ENCODERS)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    ids = torch.arange(4, 12)[None]
    dense = copy.deepcopy(model)
    plain = torch.nn.Embedding.from_pretrained(embedding.dequantize() * embedding.scale)
    dense.set_input_embeddings(plain)
    if head is not None:
        assert isinstance(head, QuantizedHead)
        assert (head.codes is embedding.codes) == bool(model.config.tie_word_embeddings)
        linear = torch.nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
        linear.weight, linear.bias = torch.nn.Parameter(head.dequantize()), head.bias
        dense.set_output_embeddings(linear)
    with torch.no_grad():
        got, expected = model(input_ids=ids)[0], dense(input_ids=ids)[0]
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_a_round_trip_keeps_every_bit(made, tmp_path, tied):
    _, out, finished = made(tie_word_embeddings=tied, bits=6)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    stored = sum(path.stat().st_size for path in (tmp_path / "again").glob("*.safetensors"))
    assert stored < finished.weight_bytes + 500  # tied: still stored once
    assert (again.get_output_embeddings().step is again.get_input_embeddings().step) == tied


def test_casts_change_what_comes_not_what_is_stored(made):
    _, out, _ = made()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    step = model.model.embed_tokens.step.clone()
    assert model.dtype == torch.bfloat16 and model.model.embed_tokens(torch.arange(3)).dtype == torch.bfloat16
    model.to(torch.float64)
    assert model.model.embed_tokens(torch.arange(3)).dtype == torch.float64
    assert torch.equal(model.model.embed_tokens.step, step)
    headless = AutoModel.from_pretrained(out)
    assert isinstance(headless.get_input_embeddings(), QuantizedEmbedding)


def test_bytes_and_bits_are_told(made):
    _, out, finished = made(bits=4)
    record = read_manifest(out)["embeddings"]
    assert record["bits"] == 4 and 4.2 < record["bits_per_weight"] < 4.6
    assert record["modules"] == ["model.embed_tokens", "lm_head"]
    facts = packed_facts(out, "out", packing_of(read_config(out), out))
    assert facts.embedding_bits == pytest.approx(record["bits_per_weight"], abs=0.02)
    assert facts.bits_per_weight == pytest.approx(finished.bits_per_weight)


@pytest.mark.parametrize("entry", [{"lm_head": 0}, {"model.embed_tokens": 99}, [1], {"model.norm": 0}])
def test_a_damaged_entry_is_refused(made, entry):
    _, out, _ = made()
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    edit_json(out / "config.json", quantization_config={**settings, "embeddings": entry})
    with pytest.raises(QuipError) as caught:
        load_model(out, torch.device("cpu"))
    assert caught.value.code == "BAD_CHECKPOINT"
