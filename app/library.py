"""The models on this computer: the demo, the cache of the hub, and the folders a person has added."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from quip_engine.architecture import SUPPORTED
from quip_engine.files import write_json

DEMO = Path(__file__).parents[1] / "assets" / "demo-model"


@dataclass(frozen=True)
class Entry:
    """A model folder at a glance; only ``probe`` knows whether it is whole."""

    model: str  # what ``probe`` is asked for: a folder or a hub id
    name: str
    origin: str  # demo, hub cache, folder
    family: str  # name of the architecture, or its model_type
    supported: bool
    blocks: int | None
    bytes: int


class Library:
    """Folders that were added are remembered in ``app.json`` of the data directory."""

    def __init__(self, home: Path) -> None:
        self._file = home / "app.json"

    def folders(self) -> list[Path]:
        try:
            return [Path(p) for p in json.loads(self._file.read_text(encoding="utf-8"))["folders"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, folder: Path) -> None:
        if folder != DEMO.resolve() and folder not in self.folders():
            write_json(self._file, {"folders": [str(p) for p in [*self.folders(), folder]]})

    def remove(self, folder: Path) -> None:
        """Forget a folder; its files stay."""
        write_json(self._file, {"folders": [str(p) for p in self.folders() if p != folder]})

    def entries(self) -> list[Entry]:
        """Demo first, then folders, then the hub cache; what has gone meanwhile is left out."""
        found = [entry(DEMO, str(DEMO), "demo")]
        found += [entry(path, str(path), "folder") for folder in self.folders() for path in model_folders(folder)]
        found += [entry(path, name, "hub cache") for name, path in cached_models()]
        return list({e.model: e for e in reversed([e for e in found if e])}.values())[::-1]


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
    name = model if origin == "hub cache" else path.name
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = str(config.get("model_type", "unknown"))
        blocks = config.get("num_hidden_layers") or config.get("n_layer")
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    except (OSError, ValueError, AttributeError):
        return None
    supported = kind in SUPPORTED and "quantization_config" not in config and size > 0
    family = SUPPORTED.get(kind, kind)
    return Entry(model, name, origin, family, supported, blocks if isinstance(blocks, int) else None, size)
