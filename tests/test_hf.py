"""Packed checkpoints through transformers: what is loaded is what was quantized, or there is an error with a name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import FAMILIES, edit_json, tiny_model
from packed_models import load, logits, packed, packed_layers, same_tensors, stored_tensors
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from quip_engine import hf
from quip_engine.checkpoint import FORMAT_VERSION, MANIFEST
from quip_engine.errors import QuipError
from quip_engine.loading import load_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return packed(tmp_path)[0]


def refused(folder: Path, match: str, code: str = "BAD_CHECKPOINT") -> None:
    with pytest.raises(QuipError, match=match) as caught:
        load(folder)
    assert caught.value.code == code


def edit_tensors(folder: Path, change) -> None:
    """Let ``change`` edit the dictionary of the packed shard."""
    path = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()  # it may be a link
    save_file(tensors, path)


# -- what is loaded


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_dequantized_model(tmp_path: Path, family: str) -> None:
    """Largest difference measured over the families: 1.5e-7."""
    out, dense = packed(tmp_path, family)
    model, _ = load_model(out, CPU)
    assert (logits(model) - logits(dense)).abs().max() < 1e-4
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == model.config.tie_word_embeddings
    assert len(packed_layers(model)) == len(
        json.loads((out / "config.json").read_text())["quantization_config"]["layers"]
    )
    assert not model.training


@pytest.mark.parametrize("method", ["nearest", "quip"])
def test_other_methods(tmp_path: Path, method: str) -> None:
    out, dense = packed(tmp_path, "qwen2", method)
    assert (logits(load(out)) - logits(dense)).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral"])
@pytest.mark.parametrize("shard_size", ["1GB", "5KB"])
def test_saving_again_keeps_every_bit(tmp_path: Path, family: str, shard_size: str) -> None:
    out, _ = packed(tmp_path, family)
    first = load(out)
    first.save_pretrained(tmp_path / "again", max_shard_size=shard_size)
    assert (len(list((tmp_path / "again").glob("*.safetensors"))) > 1) == (shard_size == "5KB")
    second = load(tmp_path / "again")
    assert same_tensors(first, second)
    assert torch.equal(logits(first), logits(second))
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization_config"] == json.loads((out / "config.json").read_text())["quantization_config"]
    assert "auto_map" not in config  # its file is not in this folder


def test_loading_twice_gives_the_same(folder: Path) -> None:
    assert same_tensors(load(folder), load(folder, device_map="cpu"))


def test_a_cast_keeps_what_isstored_tensors(folder: Path) -> None:
    model = load(folder)
    before = {name: tensor.dtype for name, tensor in stored_tensors(model).items()}
    cast = load(folder, dtype=torch.bfloat16)
    assert cast.model.embed_tokens.weight.dtype == torch.bfloat16
    assert {name: tensor.dtype for name, tensor in stored_tensors(cast).items()} == before
    moved = model.to(torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in stored_tensors(moved).items()} == before
    assert torch.float32 in before.values()
    assert torch.isfinite(logits(moved)).all()


def test_parameters_are_counted(folder: Path) -> None:
    model = load(folder)
    assert model.num_parameters() == sum(tensor.numel() for tensor in model.state_dict().values())
    assert not any(p.requires_grad for p in stored_tensors(model).values())


def test_an_original_is_not_quantized_on_the_fly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pre-quantized"):
        load(tiny_model(tmp_path), quantization_config=hf.QuipConfig())


# -- what is refused


def test_a_missing_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.codes"))
    refused(folder, r"model\.layers\.1\.mlp\.up_proj\.codes is missing")


@pytest.mark.parametrize("name", ["model.layers.0.input_layernorm.weight", "lm_head.weight"])
def test_a_missing_dense_tensor(folder: Path, name: str) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    del tensors[name]
    path.unlink()
    save_file(tensors, path)
    refused(folder, f"{name} is missing")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float32])
def test_codes_of_another_type(folder: Path, dtype: torch.dtype) -> None:
    name = "model.layers.0.self_attn.q_proj.codes"
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    refused(folder, f"{name} is stored as {str(dtype)[6:]} instead of int16")


def test_a_scale_of_another_type(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.scale"
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name].half()}))
    refused(folder, f"{name} is stored as float16 instead of float32")


def test_a_tensor_of_another_shape(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.codes"
    edit_tensors(folder, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    refused(folder, f"{name} has shape")


def test_a_dense_tensor_of_integers(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    path.unlink()
    save_file(tensors, path)
    refused(folder, r"model\.norm\.weight is stored as int8")


def edit_settings(folder: Path, **changes) -> None:
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_json(folder / "config.json", quantization_config={**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"version {FORMAT_VERSION + 1}"),
        ({"format_version": 1}, "version 1"),
        ({"format_version": "1"}, "version 1"),
        ({"format_version": True}, "version True"),
        ({"surprise": 1}, "unknown entry 'surprise'"),
        ({"formats": []}, "list of layers"),
        ({"formats": [{"transform": {"name": "none"}}]}, "list of layers"),
        ({"formats": [{"transform": {"name": "none"}, "codebook": {"name": "e9"}}]}, "codebook: 'e9'"),
        ({"formats": [{"transform": {"name": "none"}, "codebook": {"name": "e8p", "x": 1}}]}, "codebook e8p: x"),
        ({"layers": [1]}, "list of layers"),
        ({"layers": {"model.layers.0.self_attn": 0}}, r"no linear layer model\.layers\.0\.self_attn"),
        ({"layers": {"model.layers.9.self_attn.q_proj": 0}}, "no linear layer"),
    ],
)
def test_settings_this_version_cannot_read(folder: Path, changes: dict, match: str) -> None:
    edit_settings(folder, **changes)
    refused(folder, match)


def test_a_newer_version_is_refused_before_its_files_are_read(folder: Path) -> None:
    edit_settings(folder, format_version=FORMAT_VERSION + 1, codes_in="another order")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    refused(folder, f"version {FORMAT_VERSION + 1}")


def test_a_cut_file(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-10])
    refused(folder, "bytes", code="SHARD_TRUNCATED")


# -- registration


def test_registering_again_changes_nothing() -> None:
    hf.register()
    assert hf.auto.AUTO_QUANTIZER_MAPPING["quip"] is hf.QuipQuantizer


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter with nothing on stdin."""
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "imports",
    [
        "import quip_engine; from transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained; import quip_engine",
        "import quip_engine.hf; from transformers import AutoModelForCausalLM",
    ],
)
def test_any_order_of_imports(folder: Path, imports: str) -> None:
    code = f"{imports}; print(AutoModelForCausalLM.from_pretrained({str(folder)!r}).model.layers[0].mlp.up_proj)"
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "QuantizedLinear" in done.stdout


def test_importing_the_engine_is_light() -> None:
    """Measured: 0.07 CPU seconds. The best of three, so that a busy machine does not fail it."""
    code = (
        "import sys, time; start = time.process_time(); import quip_engine; print(time.process_time() - start)\n"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    runs = [python(code) for _ in range(3)]
    assert all(done.returncode == 0 for done in runs), runs[0].stderr
    assert min(float(done.stdout) for done in runs) < 0.1


def test_code_of_the_folder_runs_only_where_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    code = (
        "from transformers import AutoModelForCausalLM as A\n"
        f"trusted = A.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"print(type(trusted).__name__, type(A.from_pretrained({str(folder)!r})).__name__)\n"
        f"trusted.save_pretrained({str(again)!r})\n"
        f"A.from_pretrained({str(again)!r}, trust_remote_code=True)"
    )
    done = python(code, HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["QuipModel", "LlamaForCausalLM"]
    assert (again / "modeling_quip.py").read_bytes() == (folder / "modeling_quip.py").read_bytes()


def test_without_the_engine_a_trusted_folder_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['quip_engine'] = None\n"
        "from transformers import AutoModelForCausalLM as A\n"
        f"A.from_pretrained({str(folder)!r}, trust_remote_code=True)"
    )
    done = python(code, HF_HOME=str(tmp_path / "hub"))
    assert done.returncode != 0
    assert "install its quip_engine" in done.stderr


def test_the_manifest_of_a_folder_is_not_needed(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert AutoConfig.from_pretrained(folder).quantization_config["method"] == "quip#"
    load(folder)
