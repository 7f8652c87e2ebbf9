r"""Two models, one prompt: both answer at once in threads of their own, and one reader sees both.

    prompt --> thread left  --> pieces --> Side left  \
          \--> thread right --> pieces --> Side right  > frames, twelve a second at most

Times are taken in the threads, so what the page shows is the speed of the models and not of the page.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.state import explain
from quip_engine.config import ACTIVATIONS
from quip_engine.devices import resolve_device
from quip_engine.errors import QuipError
from quip_engine.generate import GenerationSettings, Token, stream
from quip_engine.inference import prepare
from quip_engine.loading import load_model
from quip_engine.prompts import prepare_prompt

FRAME = 0.08  # seconds between two looks at the answers
KEPT = 2  # loaded models


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: Any
    bytes: int  # of parameters and buffers


class Bench:
    """Models that are loaded, the two last used; loading is one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[tuple[str, float], Loaded] = {}

    def is_loaded(self, path: Path) -> bool:
        return _key(path) in self._models

    def get(self, path: Path) -> Loaded:
        """The model of a folder, loaded if it is not there. Raises the coded errors of ``load_model``."""
        key = _key(path)
        with self._lock:
            if key not in self._models:
                for old in list(self._models)[: 1 - KEPT]:
                    del self._models[old]
                model, tokenizer = load_model(path, resolve_device("auto"), dtype=None)
                tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
                size = sum(t.numel() * t.element_size() for t in tensors.values())
                self._models[key] = Loaded(model, tokenizer, size)
            self._models[key] = self._models.pop(key)  # the last used is the last to go
            return self._models[key]


def _key(path: Path) -> tuple[str, float]:
    config = path / "config.json"
    return str(path), config.stat().st_mtime if config.exists() else 0.0


@dataclass
class Side:
    """One answer so far. Written by its thread, read by the page."""

    pieces: list[tuple[str, tuple[Token, ...]]] = field(default_factory=list)
    state: str = "loading"  # loading, waiting, writing, then the reason of its end
    bytes: int = 0
    runs_on: str = ""
    templated: bool = True
    notes: tuple[tuple[str, str], ...] = ()
    error: QuipError | None = None

    @property
    def tokens(self) -> list[Token]:
        return [token for _, tokens in self.pieces for token in tokens]

    @property
    def first_token(self) -> float | None:
        tokens = self.tokens
        return tokens[0].seconds if tokens else None

    @property
    def speed(self) -> float | None:
        """Tokens a second after the first."""
        tokens = self.tokens
        spent = tokens[-1].seconds - tokens[0].seconds if len(tokens) > 1 else 0.0
        return (len(tokens) - 1) / spent if spent > 0 else None


def parting(left: Side, right: Side) -> int | None:
    """Index of the first token in which the answers differ, once both have written it; None while they agree."""
    a, b = ([token.id for token in side.tokens] for side in (left, right))
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


@dataclass(frozen=True)
class Question:
    """What both models are asked, and the event that ends both answers."""

    prompt: str
    settings: GenerationSettings
    activations: str = ACTIVATIONS[0]
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))  # both begin at the same moment


def answers(bench: Bench, paths: tuple[Path, Path], question: Question) -> Iterator[tuple[Side, Side]]:
    """Let both models answer; yields both sides whenever something is new, and a last time when both have ended."""
    sides = (Side(), Side())
    threads = [
        threading.Thread(target=_write, args=(bench, path, side, question), daemon=True)
        for path, side in zip(paths, sides, strict=True)
    ]
    for thread in threads:
        thread.start()
    seen: object = None
    try:
        while any(thread.is_alive() for thread in threads):
            if (now := [(side.state, len(side.pieces)) for side in sides]) != seen:
                seen = now
                yield sides
            time.sleep(FRAME)
        yield sides
    finally:  # also when the page was closed
        question.stop.set()


def _write(bench: Bench, path: Path, side: Side, question: Question) -> None:
    try:
        loaded = bench.get(path)
        side.runs_on = str(prepare(loaded.model, question.activations))
        asked = prepare_prompt(loaded.model, loaded.tokenizer, question.prompt, question.settings.max_tokens)
        side.bytes, side.templated, side.notes, side.state = loaded.bytes, asked.templated, asked.notes, "waiting"
        question.ready.wait()
        side.state = "writing"
        for piece in stream(loaded.model, loaded.tokenizer, asked, question.settings, question.stop):
            side.pieces.append((piece.text, piece.tokens))
            side.state = piece.end or side.state
    except threading.BrokenBarrierError:
        side.state = "stopped"  # the other model could not be loaded
    except Exception as error:
        question.ready.abort()
        side.error, side.state = explain(error), "failed"
