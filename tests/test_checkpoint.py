import ast
import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quip_engine import checkpoint
from quip_engine.errors import QuipError

CONFIG = {"quant_method": "quip", "format_version": 1, "method": "quip#", "bits": 2, "layers": {}, "formats": []}
FIGURES = {"model": "tiny", "bits_per_weight": 2.0312, "layers": []}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"}))
    for name in ("tokenizer.json", "generation_config.json", "LICENSE.txt", "pytorch_model.bin", "notes.md"):
        (folder / name).write_text(name)
    checkpoint.write_tensors(folder / "model.safetensors", {"a": torch.zeros(9), "b": torch.zeros(2, dtype=torch.half)})
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first", tmp_path / "second"]
    checkpoint.write_tensors(paths[0], {"embed.weight": torch.arange(6.0).view(2, 3)})
    checkpoint.write_tensors(paths[1], {"layer.codes": torch.arange(4, dtype=torch.int16)})
    return paths


def code_of(call, *arguments) -> str:
    with pytest.raises(QuipError) as caught:
        call(*arguments)
    return caught.value.code


def test_tensors_come_back_and_order_does_not_matter(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4).T, "a": torch.arange(5, dtype=torch.int16), "c": torch.tensor(2.0)}
    checkpoint.write_tensors(tmp_path / "x", tensors)
    back = load_file(tmp_path / "x")
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)
    checkpoint.write_tensors(tmp_path / "y", dict(reversed(tensors.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_tensor_files_can_be_read_by_others(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    checkpoint.write_tensors(tmp_path / "x", {"a": torch.zeros(1)})
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


FAULTS = [("No space left on device (os error 28)", "DISK_FULL"), ("(os error 5)", "IO_ERROR"), ("odd", "IO_ERROR")]


@pytest.mark.parametrize(("text", "code"), FAULTS)
def test_a_failing_disk_has_a_name(tmp_path: Path, monkeypatch, text: str, code: str) -> None:
    checkpoint.write_tensors(tmp_path / "x", {"a": torch.zeros(1)})
    before = (tmp_path / "x").read_bytes()

    def fails(*_arguments: object, **_options: object) -> None:
        raise checkpoint.SafetensorError(text)

    monkeypatch.setattr(checkpoint, "save_file", fails)
    assert code_of(checkpoint.write_tensors, tmp_path / "x", {"a": torch.ones(1)}) == code
    assert (tmp_path / "x").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_has_everything(source: Path, shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    size = checkpoint.assemble(source, out, shards, CONFIG, FIGURES)
    names = {p.name for p in out.iterdir()}
    assert names == {
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
        *("config.json", "generation_config.json", "tokenizer.json", "LICENSE.txt"),
        *("README.md", "modeling_quip.py", "quip_manifest.json"),
    }
    assert size == sum(p.stat().st_size for p in out.iterdir())
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == CONFIG
    assert config["dtype"] == "bfloat16"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["layer.codes"] == "model-00002-of-00002.safetensors"
    assert index["metadata"]["total_size"] == 6 * 4 + 4 * 2
    manifest = checkpoint.read_manifest(out)
    assert set(manifest["files"]) == names - {"quip_manifest.json"}
    assert "quip#" in (out / "README.md").read_text()
    checkpoint.verify(out)


def test_equal_jobs_write_equal_bytes(source: Path, shards: list[Path], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        checkpoint.assemble(source, out, shards, CONFIG, FIGURES)
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())
    assert str(tmp_path) not in (one / "quip_manifest.json").read_text()


def test_a_config_without_a_type_gets_that_of_its_weights(source: Path, shards: list[Path], tmp_path: Path) -> None:
    (source / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    checkpoint.assemble(source, tmp_path / "out", shards, CONFIG, FIGURES)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_a_hostile_model_type_stays_text(source: Path, shards: list[Path], tmp_path: Path) -> None:
    hostile = "'] or __import__('os').abort() #\n\"\"\""
    (source / "config.json").write_text(json.dumps({"model_type": hostile, "dtype": "float32"}))
    checkpoint.assemble(source, tmp_path / "out", shards, CONFIG, FIGURES)
    tree = ast.parse((tmp_path / "out" / "modeling_quip.py").read_text())
    assert hostile in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def test_what_exists_is_not_overwritten(source: Path, shards: list[Path], tmp_path: Path) -> None:
    assert code_of(checkpoint.assemble, source, source, shards, CONFIG, FIGURES) == "OUTPUT_EXISTS"


def test_a_failure_leaves_no_folder(source: Path, shards: list[Path], tmp_path: Path, monkeypatch) -> None:
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(checkpoint.files, "copy", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    assert code_of(checkpoint.assemble, source, tmp_path / "out", shards, CONFIG, FIGURES) == "IO_ERROR"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_is_found(source: Path, shards: list[Path], tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.assemble(source, tmp_path / "out", shards, CONFIG, FIGURES)
    file = tmp_path / "out" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage == "flip":
        file.write_bytes(content)
    assert code_of(checkpoint.verify, tmp_path / "out") == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize("text", [None, "{", "[]", '{"files": 3}'])
def test_a_manifest_that_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "quip_manifest.json").write_text(text)
    assert code_of(checkpoint.read_manifest, tmp_path) == "NOT_A_CHECKPOINT"


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in" / "quip_manifest.json").write_text('{"files": {"../secret": {"sha256": ""}}}')
    assert code_of(checkpoint.verify, tmp_path / "in") == "CHECKPOINT_DAMAGED"
