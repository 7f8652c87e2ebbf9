"""From what a person typed to a folder, and which of its files are the weights. Standard library only.

A name that exists on this disk is a folder; one that looks like a path is a folder that is not there; what is left has
to be a hub id. Weight files are found as ``transformers`` finds them: model.safetensors, else what the index names.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from quip_engine.errors import fail

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
MOST_JSON_BYTES = 64 * 2**20
MOST_PARTS = 1_000_000  # of JSON: brackets and commas; a file of the smallest parts takes a hundred times its size
# Endings of weight files of other kinds, and how people call them.
FOREIGN = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".npz": "MLX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".tflite": "TFLite",
}
Pairs = list[tuple[str, Any]]  # of a JSON object
PICKLE = (".bin", ".pt", ".pth", ".ckpt")


def local_folder(model: str) -> Path | None:
    """The folder a person means, or ``None`` when ``model`` can only be a hub id."""
    text = model.strip()
    if not text:
        fail("NO_MODEL")
    if len(text) > 4096 or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        fail("BAD_PATH")
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                fail("NO_PERMISSION", path=text)
            return path.resolve()
        if path.exists():
            fail("NOT_A_FOLDER", path=text)
    except PermissionError:
        fail("NO_PERMISSION", path=text)
    except (OSError, RuntimeError):  # a part of the path is too long; no such ~user
        fail("BAD_PATH")
    if _looks_like_a_path(text):
        fail("NOT_FOUND", path=text)
    return None


def _looks_like_a_path(text: str) -> bool:
    if "://" in text or "huggingface.co" in text:
        return False
    first, slash, _ = text.partition("/")
    return not slash or "\\" in text or text[0] in "/.~" or Path(first).is_dir()


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES, most_parts: int = MOST_PARTS) -> Any:
    """Parsed JSON of a file; raises ``ValueError`` where it is none (``JSONDecodeError`` knows the line)."""
    try:
        if path.stat().st_size > most_bytes:
            raise ValueError(f"larger than {most_bytes >> 20} MB")
        refuse_placeholder(path)
        return parsed(path.read_bytes().removeprefix(codecs.BOM_UTF8), most_parts)
    except PermissionError:
        fail("NO_PERMISSION", path=path)


def parsed(data: bytes, most_parts: int = MOST_PARTS, hook: Callable[[Pairs], Any] | None = None) -> Any:
    """Parsed JSON, within bounds of time and memory; raises ``ValueError`` where it is none. ``hook``: of its pairs."""
    if (parts := sum(map(data.count, (b"[", b"{", b",")))) > most_parts:
        raise ValueError(f"it has {parts} parts")
    try:
        return json.loads(data.decode(), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def refuse_placeholder(path: Path) -> None:
    """Refuse the small text file that git leaves where git-lfs did not fetch the real one."""
    size = path.stat().st_size
    if size < 1024:
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                fail("LFS_POINTER", file=path.name, size=size)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all present; refuses folders with other weights, or none.

    Beside an adapter, weights are not what would be loaded: ``transformers`` reads the model that the adapter names.
    """
    if (folder / ADAPTER).is_file():
        refuse_other_weights([ADAPTER], str(folder))
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        refuse_other_weights([p.name for p in folder.iterdir()], str(folder))
    names = _named_by_index(folder / INDEX)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        fail("SHARD_MISSING", count=len(missing), total=len(names), names=shown)
    return [folder / name for name in names]


def _named_by_index(index: Path) -> list[str]:
    try:
        weight_map = read_json(index)["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("weight_map names no files")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fail("BAD_INDEX", details=str(error))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*\.safetensors", name):
            fail("UNSAFE_INDEX", file=name[:200])
    return names


def refuse_other_weights(names: Iterable[str], where: str) -> None:
    """End with what is wrong about files that hold no usable safetensors. ``where`` is the folder or hub id."""
    names = list(names)
    if any(name.endswith(".safetensors") and name.startswith("model-") for name in names):
        fail("BAD_INDEX", details="the index file is missing")
    if ADAPTER in names:
        fail("WRONG_FORMAT", path=where, format="adapter (LoRA)")
    for ending, kind in FOREIGN.items():
        if any(name.lower().endswith(ending) for name in names):
            fail("WRONG_FORMAT", path=where, format=kind)
    if any(name.lower().endswith(PICKLE) for name in names):
        fail("PICKLE_ONLY", path=where)
    fail("NO_WEIGHTS", path=where)


def licence_of(folder: Path) -> str | None:
    """The licence named at the top of README.md, else the licence file."""
    readme = folder / "README.md"
    if readme.is_file() and os.access(readme, os.R_OK):
        with readme.open(encoding="utf-8", errors="replace") as file:
            found = re.search(r"^license:\s*['\"]?([\w.\-]+)", file.read(8192), re.MULTILINE)
        if found:
            return found[1]
    files = sorted(p.name for p in folder.iterdir() if p.name.upper().startswith(("LICENSE", "LICENCE")))
    return f"see {files[0]}" if files else None
