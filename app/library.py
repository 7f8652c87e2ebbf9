"""The models on this computer: the demo, the cache of the hub, and the folders a person has added.

Each is read at a glance: config.json, and the headers of its weight files. Only ``probe`` knows whether it is whole.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from quip_engine.architecture import SUPPORTED
from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.files import write_json
from quip_engine.layer import LayerFormat
from quip_engine.methods.registry import resolve
from quip_engine.probe.folder import licence_of, weight_files
from quip_engine.probe.headers import TensorInfo, read_all
from quip_engine.probe.names import BLOCK, FLOATS
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import check_config, read_config

DEMO = Path(__file__).parents[1] / "assets" / "demo-model"
SMALL = RecipeConfig("quip#", 2)  # what sizes at 2 bits are said for
CONTEXT = ("max_position_embeddings", "n_positions")
BLOCKS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Entry:
    """A model folder at a glance. Sizes in bytes; None is not known."""

    model: str  # what ``probe`` is asked for: a folder or a hub id
    name: str
    origin: str  # demo, hub cache, folder
    family: str  # name of the architecture, or its model_type
    supported: bool
    blocks: int | None
    bytes: int  # of the weight files
    why: str = ""  # it cannot be quantized
    packed: str = ""  # how it is packed already, where we can run it as it is
    parameters: int | None = None
    context: int | None = None
    licence: str | None = None
    small: int | None = None  # bytes at 2 bits


class Library:
    """Folders that were added are remembered in ``app.json`` of the data directory."""

    def __init__(self, home: Path) -> None:
        self._file = home / "app.json"
        self._seen: list[Entry] | None = None

    def folders(self) -> list[Path]:
        try:
            return [Path(p) for p in json.loads(self._file.read_text(encoding="utf-8"))["folders"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, folder: Path) -> None:
        if folder != DEMO.resolve() and folder not in self.folders():
            write_json(self._file, {"folders": [str(p) for p in [*self.folders(), folder]]})
            self.forget()

    def remove(self, folder: Path) -> None:
        """Forget a folder; its files stay."""
        write_json(self._file, {"folders": [str(p) for p in self.folders() if p != folder]})
        self.forget()

    def forget(self) -> None:
        """Something has changed: ``seen`` looks again."""
        self._seen = None

    def seen(self) -> list[Entry]:
        """What the last look at the disk has found, for those who ask each second."""
        seen = self._seen
        return self.entries() if seen is None else seen

    def entries(self) -> list[Entry]:
        """Demo first, then folders, then the hub cache; what has gone meanwhile is left out."""
        found = [entry(DEMO, str(DEMO), "demo")]
        found += [entry(path, str(path), "folder") for folder in self.folders() for path in model_folders(folder)]
        found += [entry(path, name, "hub cache") for name, path in cached_models()]
        self._seen = list({e.model: e for e in reversed([e for e in found if e])}.values())[::-1]
        return self._seen


def model_folders(folder: Path) -> list[Path]:
    """The folder itself when it holds a model, else those directly below it that do."""
    if (folder / "config.json").is_file():
        return [folder]
    try:
        return sorted(p for p in folder.iterdir() if (p / "config.json").is_file())
    except OSError:
        return []


def cached_models() -> list[tuple[str, Path]]:
    """(hub id, folder) of every model in the cache of the hub, newest revision."""
    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    models = sorted((r for r in repos if r.repo_type == "model" and r.revisions), key=lambda r: r.repo_id)
    newest = ((r.repo_id, max(r.revisions, key=lambda v: v.last_modified).snapshot_path) for r in models)
    return [(name, path) for name, path in newest if (path / "config.json").is_file()]


def entry(path: Path, model: str, origin: str) -> Entry | None:
    """What a folder is; None where it cannot be read at all."""
    try:
        files = [path / "config.json", *path.glob("*.safetensors")]
        state = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except OSError:
        return None
    return _entry(path, model, origin, state)


@lru_cache(maxsize=256)
def _entry(path: Path, model: str, origin: str, state: tuple[tuple[int, int], ...]) -> Entry | None:
    """``state`` of its files tells looks apart: headers are read once."""
    try:
        config = read_config(path)
    except (QuipError, OSError):
        return None
    tensors, why, packed = {}, "", packing_of(config, path)
    try:
        tensors = read_all(weight_files(path))
        check_config(config, path)
    except (QuipError, OSError) as error:
        why = error.message if isinstance(error, QuipError) else str(error)
    kind = str(config.get("model_type", "unknown"))
    return Entry(
        model=model,
        name=model if origin == "hub cache" else path.name,
        origin=origin,
        family=SUPPORTED.get(kind, kind)[:40],
        supported=not why,
        blocks=_number(config, BLOCKS),
        bytes=sum(size for _, size in state[1:]),
        why=why,
        packed=str(packed) if packed and tensors else "",
        parameters=None if packed else _parameters(tensors, bool(config.get("tie_word_embeddings"))),
        context=_number(config, CONTEXT),
        licence=licence_of(path),
        small=None if why else _small(tensors),
    )


def _number(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if type(value := config.get(name)) is int), None)


def _parameters(tensors: dict[str, TensorInfo], tied: bool) -> int | None:
    """A head that is tied to the embedding counts once."""
    counted = (math.prod(t.shape) for name, t in tensors.items() if not (tied and name == "lm_head.weight"))
    return sum(counted) or None


def _small(tensors: dict[str, TensorInfo]) -> int:
    """Bytes of the weights at 2 bits: matrices inside the blocks are packed, all else stays."""
    recipe = resolve(SMALL)
    layout = LayerFormat(recipe.transform, recipe.codebook).layout
    total = 0
    for name, tensor in tensors.items():
        if BLOCK.search(name) and len(tensor.shape) == 2 and tensor.dtype in FLOATS:
            specs = layout(tensor.shape[0], tensor.shape[1]).values()
            total += sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs)
        else:
            total += tensor.bytes
    return total
