"""Loaded models: what is in memory, and whether more of them fit there."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.machine import Memory, memory
from quip_engine.devices import resolve_device
from quip_engine.footprint import answering_bytes
from quip_engine.loading import load_model

KEPT = 3  # loaded models: as many as answer beside each other


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: Any
    bytes: int  # of parameters and buffers
    vocabulary: int  # a hash of its tokens: models that share it can be compared token by token


@dataclass(frozen=True)
class Forecast:
    """Bytes that each model still needs so as to answer, and the memory that they would come from."""

    needs: tuple[int, ...]
    free: int
    memory: Memory
    loaded: bool  # all of them are there

    @property
    def fits(self) -> bool:
        """All of them at once."""
        return sum(self.needs) <= self.free


class Bench:
    """Models that are loaded, the last used; loading is one at a time."""

    def __init__(self, device: Callable[[], str] = lambda: "auto") -> None:
        """``device``: asked at each load."""
        self._device = device
        self._lock = threading.Lock()
        self._models: dict[tuple[str, float, str], Loaded] = {}

    def get(self, path: Path, *, alone: bool = False) -> Loaded:
        """The model of a folder, loaded if it is not there; ``alone`` lets go of all others first.

        Raises the coded errors of ``load_model``.
        """
        key = self._key(path)
        with self._lock:
            others = [other for other in self._models if other != key]
            room = 0 if alone else KEPT - 1
            self._drop(others[: len(others) - room] if len(others) > room else [])
            if key not in self._models:
                model, tokenizer = load_model(path, resolve_device(key[2]), dtype=None)
                tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
                size = sum(t.numel() * t.element_size() for t in tensors.values())
                tokens = hash(frozenset(tokenizer.get_vocab().items()))
                self._models[key] = Loaded(model, tokenizer, size, tokens)
            self._models[key] = self._models.pop(key)  # the last used is the last to go
            return self._models[key]

    def loaded(self, path: Path) -> Loaded | None:
        """The model of a folder if it is there."""
        return self._models.get(self._key(path))

    def forecast(self, paths: Sequence[Path], tokens: int) -> Forecast:
        """What these models need for ``tokens`` tokens each, were all others let go. Raises coded errors."""
        keys = [self._key(path) for path in paths]
        needs = {key: answering_bytes(Path(key[0]), tokens, loaded=key in self._models) for key in keys}
        now = memory(self._device())
        spare = sum(loaded.bytes for key, loaded in list(self._models.items()) if key not in needs)
        return Forecast(tuple(needs.values()), now.free + spare, now, all(key in self._models for key in keys))

    def make_room(self, paths: Sequence[Path]) -> None:
        """Let go of all models but these."""
        keys = [self._key(path) for path in paths]
        with self._lock:
            self._drop([key for key in self._models if key not in keys])

    def _drop(self, keys: Sequence[tuple[str, float, str]]) -> None:
        for key in keys:
            del self._models[key]
        if keys:
            gc.collect()  # modules point at each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _key(self, path: Path) -> tuple[str, float, str]:
        config = path / "config.json"
        return str(path), config.stat().st_mtime if config.exists() else 0.0, self._device()
