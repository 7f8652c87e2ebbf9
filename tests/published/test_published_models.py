"""Folders in the published layouts against the dense weights of their formulas."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from published_folders import CPU, qtip_folder, quip_sharp_folder
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.errors import QuipError
from quip_engine.linear import QuantizedLinear
from quip_engine.published import is_published, read_published
from quip_engine.published.fused import FusedPart
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


def test_fused_layers_are_not_saved_as_what_they_are_not(tmp_path: Path) -> None:
    folder, _ = quip_sharp_folder(tmp_path / "published")
    with pytest.raises(QuipError, match="fused layers cannot be saved"):
        read_published(folder, CPU).save_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("stored", ["absent", "equal", "different"])
def test_tied_heads(tmp_path: Path, stored: str) -> None:
    from helpers import edit_json
    from safetensors.torch import save_file

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
