"""What is wrong about a published folder has a name, and is found before the model is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import edit_json, tiny_model
from published_folders import CPU, QTIP, QUIP_SHARP, qtip_folder, quip_sharp_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from quip_engine.errors import QuipError
from quip_engine.published import is_published, read_published

Tensors = dict[str, Tensor]
Q0, QKV0 = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.qkv_proj"


@pytest.fixture(scope="module")
def quip_sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quip_sharp_folder(tmp_path_factory.mktemp("quip-sharp") / "published")[0]


@pytest.fixture(scope="module")
def qtip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qtip_folder(tmp_path_factory.mktemp("qtip") / "published")[0]


def variant(source: Path, folder: Path, change: Callable[[Tensors], object] = dict, **config: Any) -> Path:
    """A copy of a folder with changed tensors and config."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    edit_json(folder / "config.json", **config)
    return folder


def refused(folder: Path, code: str = "BAD_CHECKPOINT") -> str:
    assert is_published(folder)
    with pytest.raises(QuipError) as caught:
        read_published(folder, CPU)
    assert caught.value.code == code
    return caught.value.message


def edit(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: value(tensors[name]).contiguous()})


def of_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = float("nan")
    return tensor


def wide(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor], -1)


TENSORS = {
    "missing": ("quip_sharp", lambda t: t.pop(f"{QKV0}.SU"), f"{QKV0}.SU is missing"),
    "missing scales": ("quip_sharp", lambda t: t.pop(f"{QKV0}.fuse_scales"), "fuse_scales is missing"),
    "missing norm": ("quip_sharp", lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
    "missing head": ("quip_sharp", lambda t: t.pop("lm_head.weight"), "lm_head.weight is missing"),
    "codes of another type": ("quip_sharp", edit(f"{QKV0}.Qidxs", Tensor.int), "stored as int32 instead of int64"),
    "too many codes": ("quip_sharp", edit(f"{QKV0}.Qidxs", wide), "shape (128, 4) instead of (128, 2)"),
    "rescaled": ("quip_sharp", lambda t: t.update({f"{QKV0}.scaleWH": torch.ones(64)}), "scaleWH is no part"),
    "signs packed": ("quip_sharp", edit(f"{QKV0}.SV", lambda t: (t > 0).to(torch.uint8)), "stored as uint8"),
    "NaN": ("quip_sharp", edit(f"{QKV0}.SV", of_nan), f"{QKV0}.SV holds NaN"),
    "NaN in scales": ("quip_sharp", edit(f"{QKV0}.fuse_scales", of_nan), "fuse_scales holds NaN"),
    "codebook_id": ("quip_sharp", edit(f"{QKV0}.codebook_id", lambda t: t + 1), "codebook_id is 8; known: 7"),
    "unfused": ("quip_sharp", lambda t: t.update({f"{Q0}.weight": torch.ones(64, 64)}), f"{Q0}.weight is no part"),
    "rcp": ("qtip", edit(f"{Q0}.rcp", lambda t: t + 1), "rcp is 1; known: 0"),
    "trellis": ("qtip", edit(f"{Q0}.trellis", wide), "shape (16, 64) instead of (16, 32)"),
    "trellis of another type": ("qtip", edit(f"{Q0}.trellis", Tensor.int), "stored as int32 instead of int16"),
    "table": ("qtip", edit(f"{Q0}.tlut", wide), "shape (512, 4) instead of (512, 2)"),
    "NaN in the table": ("qtip", edit(f"{Q0}.tlut", of_nan), "tlut holds NaN"),
    "no table": ("qtip", lambda t: t.pop(f"{Q0}.tlut"), f"{Q0}.tlut is missing"),
    "bias": ("qtip", lambda t: t.update({f"{Q0}.bias": torch.ones(64)}), f"{Q0}.bias is no part"),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_tensors(fault: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, change, words = TENSORS[fault]
    assert words in refused(variant(request.getfixturevalue(source), tmp_path / "bad", change))


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("quip_sharp", {"codebook": "D4"}, "codebook is D4; known: E8P12 or E8P12RVQ4B or E8P12RVQ3B"),
    ("quip_sharp", {"codebook": None}, "codebook is None"),
    ("quip_sharp", {"codebook": ["E8P12"]}, "codebook is ['E8P12']"),
    ("quip_sharp", {"codebook_version": 0}, "codebook_version is 0; known: 1"),
    ("quip_sharp", {"packsz": 1}, "packsz is 1"),
    ("quip_sharp", {"idx_dtype": "torch.int32"}, "idx_dtype is torch.int32"),
    ("quip_sharp", {"lora_rank": 64}, "lora_rank is 64; known: 0"),
    ("quip_sharp", {"rescale_WH": 1}, "rescale_WH is 1"),
    ("quip_sharp", {"codebook": "E8P12RVQ4B", "resid_scale_override": 3.6}, "resid_scale_override is 3.6"),
    ("quip_sharp", {"codebook": "E8P12RVQ4B"}, "shape (128, 2) instead of (128, 4)"),
    ("qtip", {"decode_mode": "lut"}, "decode_mode is lut; known: quantlut_sym or 1mad or 3inst"),
    ("qtip", {"L": 12}, "L is 12; known: 16"),
    ("qtip", {"K": 5}, "K is 5; known: 2 or 3 or 4"),
    ("qtip", {"K": True}, "K is True"),
    ("qtip", {"K": 3}, "shape (16, 32) instead of (16, 48)"),
    ("qtip", {"K_v_proj": 3}, "v_proj.trellis has shape"),
    ("qtip", {"V": 1}, "V is 1; known: 2"),
    ("qtip", {"tlut_bits": 10}, "tlut_bits is 10; known: 9"),
    ("qtip", {"td_x": 8}, "td_x is 8; known: 16"),
    ("qtip", {"skip_list": ["7_down"]}, "skip_list names 7_down"),
    ("qtip", {"skip_list": 7}, "skip_list is 7"),
    ("qtip", {"skip_list": "0_down"}, "model.layers.0.mlp.down_proj.weight is missing"),
]


@pytest.mark.parametrize(("source", "params", "words"), SETTINGS, ids=[str(case[1]) for case in SETTINGS])
def test_settings(
    source: str, params: dict[str, Any], words: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {**(QUIP_SHARP if source == "quip_sharp" else QTIP), **params}
    folder = variant(request.getfixturevalue(source), tmp_path / "bad", quip_params=settings)
    assert words in refused(folder)


CONFIGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("quip_sharp", {"quip_params": "E8P12"}, "BAD_CHECKPOINT", "is not an object"),
    ("quip_sharp", {"attention_bias": True}, "BAD_CHECKPOINT", "has a bias"),
    ("quip_sharp", {"intermediate_size": 200}, "BAD_CHECKPOINT", "the published layout has no 400 rows or columns"),
    ("quip_sharp", {"intermediate_size": 704}, "BAD_CHECKPOINT", "the published layout has no 1408 rows or columns"),
    ("qtip", {"intermediate_size": 48}, "BAD_CHECKPOINT", "the published layout has no 48 rows or columns"),
    ("qtip", {"num_hidden_layers": 3}, "BAD_CHECKPOINT", "model.layers.2.self_attn.q_proj.tlut is missing"),
    ("qtip", {"num_hidden_layers": 1}, "BAD_CHECKPOINT", "is no part of the published layout"),
    ("qtip", {"model_type": "qwen2"}, "UNSUPPORTED_ARCH", "have the blocks of Llama"),
    ("qtip", {"model_type": "unheard"}, "UNSUPPORTED_ARCH", "unheard"),
    ("qtip", {"hidden_size": "64"}, "BAD_CONFIG_VALUE", "hidden_size"),
    ("qtip", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "UNSAFE_CONFIG", "auto_map"),
    ("qtip", {"quantization_config": {"quant_method": "gptq"}}, "ALREADY_QUANTIZED", "gptq"),
]


@pytest.mark.parametrize(("source", "config", "code", "words"), CONFIGS, ids=[str(case[1]) for case in CONFIGS])
def test_configs(
    request: pytest.FixtureRequest, tmp_path: Path, *, source: str, config: dict[str, Any], code: str, words: str
) -> None:
    assert words in refused(variant(request.getfixturevalue(source), tmp_path / "bad", **config), code)


def test_truncated_files(qtip: Path, tmp_path: Path) -> None:
    folder = variant(qtip, tmp_path / "bad")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    refused(folder, "SHARD_TRUNCATED")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "PICKLE_ONLY")


def test_harmless_buffers_of_older_files_are_left_out(quip_sharp: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    read_published(variant(quip_sharp, tmp_path / "old", lambda t: t.update({name: torch.ones(8)})), CPU)


def test_what_is_not_published(tmp_path: Path) -> None:
    assert not is_published(tiny_model(tmp_path))
    assert not is_published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]), encoding="utf-8")
    assert not is_published(tmp_path)
