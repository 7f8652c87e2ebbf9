"""Folders in the published layouts against the dense weights of their formulas."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import edit_json, write_tokenizer
from packed_models import same_tensors
from published_folders import CPU, qtip_folder, quip_sharp_folder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.errors import QuipError
from quip_engine.fused import FusedPart
from quip_engine.linear import QuantizedLinear
from quip_engine.loading import load_model
from quip_engine.published import is_published, read_published
from quip_engine.published.quip_sharp import unpack

QUIP_SHARP_CASES = {"2 bits": {}, "3 bits": {"bits": 3}, "4 bits": {"bits": 4}, "rescaled": {"rescale": True}}
QTIP_CASES = {
    **{f"hyb {K} bits": {"K": K} for K in (2, 3, 4)},
    "hyb with v at 4 bits": {"K": 2, "K_v": 4},
    "hyb, some skipped": {"skip": ("0_v", "1_down")},
    **{
        f"{mode} {K} bits": {"mode": mode, "K": K} for mode, K in (("1mad", 2), ("1mad", 3), ("3inst", 2), ("3inst", 4))
    },
}
CASES = {
    **{f"quip# {name}": (quip_sharp_folder, options) for name, options in QUIP_SHARP_CASES.items()},
    **{f"qtip {name}": (qtip_folder, options) for name, options in QTIP_CASES.items()},
}


def plain_model(folder: Path, weights: dict[str, Tensor]) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_the_formula_and_the_model_answers_alike(tmp_path: Path, name: str) -> None:
    make, options = CASES[name]
    folder, weights = make(tmp_path / "published", **options)
    assert is_published(folder)
    model, plain = read_published(folder, CPU), plain_model(folder, weights)
    checked = 0
    for path, module in model.named_modules():
        if isinstance(module, FusedPart) or (isinstance(module, QuantizedLinear) and f"{path}.weight" in weights):
            W = weights[f"{path}.weight"]
            assert (module.dequantize() - W).norm() < 2e-6 * W.norm(), path  # 3e-7
            checked += 1
    assert checked == 14 - len(options.get("skip", ()))
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(ids).logits, plain(ids).logits
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()  # 2e-6
    text = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    assert torch.equal(model.generate(ids[:1], **text), plain.generate(ids[:1], **text))


@pytest.mark.parametrize("make", [quip_sharp_folder, qtip_folder])
def test_it_stays_packed(tmp_path: Path, make: object) -> None:
    folder, _ = make(tmp_path / "published")  # type: ignore[operator]
    model = read_published(folder, CPU, torch.bfloat16)
    assert not any(isinstance(module, nn.Linear) for path, module in model.named_modules() if path != "lm_head")
    packed = {name: p for name, p in model.named_parameters() if ".layers." in name and "layernorm" not in name}
    weights = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, QuantizedLinear))
    codes = sum(p.nbytes for name, p in packed.items() if name.endswith(".codes"))
    assert codes * 8 == 2 * weights
    assert not any(p.requires_grad for p in packed.values())
    assert {str(p.dtype) for name, p in model.named_parameters() if name not in packed} == {"torch.bfloat16"}
    assert {name.rpartition(".")[2]: p.dtype for name, p in packed.items() if "vector" in name} == {
        "input_vector": torch.float16,
        "output_vector": torch.float32,
    }
    assert model(torch.tensor([[1, 2, 3]])).logits.dtype == torch.bfloat16
    twin = copy.deepcopy(model)
    assert torch.equal(twin(torch.tensor([[1, 2, 3]])).logits, model(torch.tensor([[1, 2, 3]])).logits)


def test_qtip_is_saved_as_a_checkpoint_of_ours(tmp_path: Path) -> None:
    folder, _ = qtip_folder(tmp_path / "published", K_v=3, skip=("1_down",))
    model = read_published(folder, CPU)
    model.save_pretrained(tmp_path / "ours")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert not is_published(tmp_path / "ours")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids).logits, model(ids).logits)


def saved(model: PreTrainedModel, folder: Path, **options: str) -> Path:
    model.save_pretrained(folder, **options)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("options", QUIP_SHARP_CASES.values(), ids=QUIP_SHARP_CASES)
def test_quip_sharp_is_saved_as_a_checkpoint_of_ours_with_its_fused_layers(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    folder, _ = quip_sharp_folder(tmp_path / "published", **options)
    model = read_published(folder, CPU)
    ours = saved(model, tmp_path / "ours", max_shard_size="20KB")
    assert len(list(ours.glob("*.safetensors"))) > 1
    ids = torch.tensor([[1, 2, 3, 4]])
    again, report = AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values())
    for loaded in (again, load_model(ours, CPU)[0]):
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert isinstance(loaded.model.layers[1].mlp.up_proj, FusedPart)
    assert same_tensors(again, model)
    config = json.loads((ours / "config.json").read_text())
    saved(again, tmp_path / "again")
    assert config == json.loads((tmp_path / "again" / "config.json").read_text())
    assert "quip_params" not in config


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model with fused layers, as a checkpoint of ours."""
    path = tmp_path_factory.mktemp("fused")
    return saved(read_published(quip_sharp_folder(path / "published")[0], CPU), path / "ours")


def test_fused_layers_elsewhere(ours: Path, tmp_path: Path) -> None:
    """Without the head, with a block on disk, in copies, as another task's model."""
    whole, ids = AutoModelForCausalLM.from_pretrained(ours), torch.tensor([[1, 2, 3]])
    states = whole(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(AutoModel.from_pretrained(ours)(ids).last_hidden_state, states)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(ours, device_map=places, offload_folder=str(tmp_path / "disk"))
    assert offloaded.model.layers[1].self_attn.qkv_proj.codes.is_meta
    for twin in (offloaded, copy.deepcopy(whole)):
        assert torch.equal(twin(ids).logits, whole(ids).logits)
        assert torch.equal(twin(ids).logits, whole(ids).logits)


QKV, UPGATE = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.upgate_proj"
Q, K, V = (f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
UP, GATE, DOWN = (f"model.layers.0.mlp.{name}_proj" for name in ("up", "gate", "down"))
Settings = dict[str, Any]


def fuse(path: str, parts: object) -> Callable[[Settings], object]:
    return lambda settings: settings["fused"].update({path: parts})


def rename(old: str, new: str) -> Callable[[Settings], object]:
    return lambda settings: [
        record.update({new: record.pop(old)}) for record in (settings["fused"], settings["layers"])
    ]


def without_mlp(settings: Settings) -> None:
    """The MLP is dense, but for its up projection."""
    for record in (settings["fused"], settings["layers"]):
        for path in (UPGATE, DOWN):
            record.pop(path, None)
    settings["fused"][QKV] = [Q, K, UP]


FUSED_FAULTS = {
    "a list": (lambda settings: settings.update(fused=[QKV]), "list of fused layers"),
    "no parts": (fuse(QKV, []), "list of fused layers"),
    "a number": (fuse(QKV, 3), "list of fused layers"),
    "a part twice": (fuse(QKV, [Q, K, K]), "list of fused layers"),
    "a part that is packed by itself": (fuse(QKV, [Q, K, V.replace("v_", "o_")]), "list of fused layers"),
    "no codes": (fuse(f"{QKV}s", [V]), "list of fused layers"),
    "a part that is not there": (fuse(QKV, [Q, K, V + "s"]), f"no linear layer {Q} or {K} or {V}s"),
    "a part that is not linear": (fuse(QKV, [Q, K, "model.norm"]), "no linear layer"),
    "a part of another module": (without_mlp, f"{QKV} cannot be one with {Q}, {K}, {UP}"),
    "parts of several widths": (lambda s: (s["layers"].pop(DOWN), fuse(UPGATE, [UP, DOWN])(s)), "cannot be one"),
    "a name that is taken": (rename(QKV, Q), f"{Q} cannot be one with {Q}, {K}, {V}"),
    "a name inside a part": (rename(QKV, f"{Q}.codes"), f"{Q}.codes cannot be one with"),
    "too few parts": (fuse(QKV, [Q, K]), f"{V}.weight is missing"),
    "nothing": (lambda settings: settings.pop("fused"), f"no linear layer {UPGATE}"),
}


@pytest.mark.parametrize("fault", FUSED_FAULTS)
def test_fused_layers_that_cannot_be(ours: Path, tmp_path: Path, fault: str) -> None:
    folder, (change, words) = shutil.copytree(ours, tmp_path / "bad"), FUSED_FAULTS[fault]
    settings = json.loads((ours / "config.json").read_text())["quantization_config"]
    change(settings)
    edit_json(folder / "config.json", quantization_config=settings)
    with pytest.raises(QuipError) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert (caught.value.code, words in caught.value.message) == ("BAD_CHECKPOINT", True), caught.value.message


def test_parts_with_biases_are_not_fused(ours: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ours, tmp_path / "bad")
    edit_json(folder / "config.json", attention_bias=True)
    with pytest.raises(QuipError, match="qkv_proj cannot be one with"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("stored", ["absent", "equal", "different"])
def test_tied_heads(tmp_path: Path, stored: str) -> None:
    folder, _ = qtip_folder(tmp_path / "published")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    if stored == "absent":
        del tensors["lm_head.weight"]
    elif stored == "equal":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    model = read_published(folder, CPU)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == (stored != "different")
    if stored == "different":
        assert torch.equal(head, tensors["lm_head.weight"].float())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_published_words_are_the_published_values(reference: Path, bits: int) -> None:
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    name = {2: "E8P12", 3: "E8P12RVQ3B", 4: "E8P12RVQ4B"}[bits]
    tensors = unpack(golden[f"{name}_packed"], 64, bits)
    codebook = E8P() if bits == 2 else ResidualE8P(bits=bits, published=True)
    W = codebook.decode({**tensors, "scale": torch.ones(1)}, 16, 64)
    assert torch.equal(W, golden[f"{name}_vals"])
