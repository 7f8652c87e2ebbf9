"""What people do with a loaded model: copies, casts, offloading, saving, generation, gradients, other classes."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from packed_models import IDS, load, logits, packed, packed_layers, same_tensors, stored_tensors
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from quip_engine.architecture import decoder_blocks
from quip_engine.errors import QuipError

KINDS = ("llama", "gpt2", "opt", "gemma2", "mixtral")  # of modules: plain, Conv1D, biases, windows, experts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return packed(tmp_path)[0]


def places(model: PreTrainedModel, second: str) -> dict[str, str]:
    """A device map: the second block on ``second``, everything else on the CPU."""
    block = f"{decoder_blocks(model)[0]}.1"
    owners = [name for name, module in model.named_modules() if [*module.parameters(recurse=False)]]
    return {name: "cpu" for name in owners if not name.startswith(f"{block}.")} | {block: second}


# -- offloading


@pytest.mark.parametrize("family", KINDS)
def test_a_block_on_disk_computes_the_same(tmp_path: Path, family: str) -> None:
    """Packed tensors leave memory with the rest, and come back for each call."""
    whole = load(packed(tmp_path, family)[0])
    model = load(
        tmp_path / f"packed-{family}", device_map=places(whole, "disk"), offload_folder=str(tmp_path / "offload")
    )
    block = f"{decoder_blocks(whole)[0]}.1."
    assert all(t.is_meta == name.startswith(block) for name, t in stored_tensors(model).items())
    for _ in range(2):
        assert torch.equal(logits(model), logits(whole))
    asked = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **asked), whole.generate(IDS, **asked))
    model.save_pretrained(tmp_path / "again")
    assert same_tensors(load(tmp_path / "again"), whole)


@pytest.mark.parametrize("family", KINDS)
def test_places_chosen_by_accelerate(tmp_path: Path, family: str) -> None:
    out, _ = packed(tmp_path, family)
    whole = load(out)
    assert torch.equal(logits(load(out, device_map="auto")), logits(whole))
    little = sum(t.nbytes for t in whole.state_dict().values()) // 2
    model = load(out, device_map="auto", max_memory={"cpu": little}, offload_folder=str(tmp_path / "offload"))
    assert "disk" in model.hf_device_map.values()
    assert any(tensor.is_meta for tensor in stored_tensors(model).values())
    assert torch.equal(logits(model), logits(whole))


# -- copies, casts, generation


@pytest.mark.parametrize("family", KINDS)
def test_copies_do_not_share(tmp_path: Path, family: str) -> None:
    model = load(packed(tmp_path, family)[0])
    before = logits(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(before, logits(twin))
        scale = next(t for name, t in stored_tensors(twin).items() if name.endswith(".scale"))
        scale.data.mul_(10)
        assert not torch.equal(before, logits(twin))
        assert torch.equal(before, logits(model))


def test_casts_that_transformers_refuses(folder: Path) -> None:
    for cast in ("half", "float"):
        with pytest.raises(ValueError, match="not supported for quantized model"):
            getattr(load(folder), cast)()


@pytest.mark.parametrize("family", KINDS)
def test_a_cast_leaves_scales_in_float32(tmp_path: Path, family: str) -> None:
    """bfloat16 has 8 bits: 1 % of the largest logit; 0.4 % measured."""
    model = load(packed(tmp_path, family)[0])
    before, dtypes = logits(model), {name: t.dtype for name, t in stored_tensors(model).items()}
    moved = model.to(torch.bfloat16)
    assert {name: t.dtype for name, t in stored_tensors(moved).items()} == dtypes
    assert {torch.float32, torch.int16} <= set(dtypes.values())
    assert (logits(moved) - before).abs().max() < 0.02 * before.abs().max()


@pytest.mark.parametrize("family", KINDS)
def test_a_static_cache_writes_the_same_text(tmp_path: Path, family: str) -> None:
    model = load(packed(tmp_path, family)[0])
    asked = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    text = model.generate(IDS, **asked)
    assert text.shape == (1, IDS.shape[1] + 5)
    static = model.generate(IDS, **asked, cache_implementation="static", disable_compile=True)
    assert torch.equal(text, static)


# -- gradients


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_gradients_of_what_is_dense_are_those_of_the_dense_model(tmp_path: Path, family: str) -> None:
    out, dense = packed(tmp_path, family)
    model = load(out)
    for each in (model, dense):
        each(IDS, labels=IDS).loss.backward()
    expected = dict(dense.named_parameters())
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any("norm" in name for name in trained)
    assert any("embed" in name for name in trained)
    assert not stored_tensors(model).keys() & trained.keys()
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, expected[name].grad, rtol=1e-3, atol=1e-6)


def test_a_scale_can_be_trained(tmp_path: Path) -> None:
    """y is linear in the scale s of a layer: dL/ds = <dL/dW, W> / s."""
    out, dense = packed(tmp_path)
    model, name = load(out), "model.layers.0.mlp.up_proj"
    layer, weight = model.get_submodule(name), dense.get_submodule(name).weight
    layer.scale.requires_grad_(True)
    for each in (model, dense):
        each(IDS, labels=IDS).loss.backward()
    expected = (weight.grad * weight).sum() / layer.scale.detach()
    torch.testing.assert_close(layer.scale.grad, expected.view_as(layer.scale), rtol=1e-3, atol=1e-8)


# -- other ways in


def test_nothing_is_reported_missing(folder: Path) -> None:
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize("family", KINDS)
def test_the_model_without_its_head(tmp_path: Path, family: str) -> None:
    out, dense = packed(tmp_path, family)
    base = AutoModel.from_pretrained(out)
    layers = json.loads((out / "config.json").read_text())["quantization_config"]["layers"]
    assert packed_layers(base).keys() == {name.partition(".")[2] for name in layers}
    with torch.no_grad():
        expected = dense.base_model(IDS).last_hidden_state
        torch.testing.assert_close(base(IDS).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    base.save_pretrained(tmp_path / "base")
    assert same_tensors(AutoModel.from_pretrained(tmp_path / "base"), base)
    if dense.config.tie_word_embeddings:
        assert same_tensors(load(tmp_path / "base"), load(out))
    else:
        with pytest.raises(QuipError, match=r"lm_head\.weight is missing"):
            load(tmp_path / "base")


def test_a_head_that_was_never_trained_is_refused(folder: Path) -> None:
    with pytest.raises(QuipError, match=r"score\.weight is missing"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_a_model_made_from_the_config_is_not_taken_for_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    """transformers makes it dense and random, as for every method; saved, it is refused."""
    random = AutoModelForCausalLM.from_config(load(folder).config)
    assert not packed_layers(random)
    random.save_pretrained(tmp_path / "random")
    with pytest.raises(QuipError, match="is missing"):
        load(tmp_path / "random")
