"""Ways to damage a model folder: functions of a folder, to be put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import edit_json
from safetensors.torch import load_file, save_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 131784\n"
EXPANDS = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 5,
}
BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
Break = Callable[[Path], object]


def config(**changes: object) -> Break:
    return lambda folder: edit_json(folder / "config.json", **changes)


def write(name: str, data: bytes | str) -> Break:
    return lambda folder: (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def remove(*names: str) -> Break:
    return lambda folder: [(folder / name).unlink() for name in names]


def instead(name: str, *, of: str = WEIGHTS, data: bytes = b"weights") -> Break:
    return lambda folder: [(folder / of).unlink(), (folder / name).write_bytes(data)]


def tensors(change: Callable[[dict[str, torch.Tensor]], object], file: str = WEIGHTS) -> Break:
    def apply(folder: Path) -> None:
        found = {name: tensor.clone() for name, tensor in load_file(folder / file).items()}
        change(found)
        save_file(found, folder / file, metadata={"format": "pt"})

    return apply


def cut(size: int) -> Break:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])


def header(text: str, data: bytes = b"") -> Break:
    return write(WEIGHTS, len(text.encode()).to_bytes(8, "little") + text.encode() + data)


def tokenizer(**changes: object) -> Break:
    return lambda folder: edit_json(folder / "tokenizer.json", **changes)


def index(change: Callable[[dict[str, str]], object]) -> Break:
    def apply(folder: Path) -> None:
        record = json.loads((folder / INDEX).read_text())
        change(record["weight_map"])
        (folder / INDEX).write_text(json.dumps(record))

    return apply


def shard(number: int) -> Callable[[Path], Path]:
    return lambda folder: sorted(folder.glob("model-*.safetensors"))[number]


def both(*changes: Break) -> Break:
    return lambda folder: [change(folder) for change in changes]
