r"""Several models, one prompt: they answer at once in threads of their own, or one after the other; a reader sees all.

    prompt --> thread 1 --> pieces --> Side 1  \
          \--> thread 2 --> pieces --> Side 2  > frames, twelve a second at most

Times are taken in the threads, so what the page shows is the speed of the models and not of the page. When all have
answered, the others read the answer of the first (``quip_engine.agreement``). One after the other, each is loaded
alone, and reads while it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from app.bench import Bench, Loaded
from app.state import explain
from quip_engine.agreement import Gap, gaps, predictions
from quip_engine.config import ACTIVATIONS
from quip_engine.errors import QuipError
from quip_engine.generate import GenerationSettings, Token, stream
from quip_engine.inference import prepare
from quip_engine.prompts import Message, prepare_prompt

FRAME = 0.08  # seconds between two looks at the answers
MOST_KEPT = 256_000_000  # bytes of the first model's predictions


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
    prompt: tuple[int, ...] = ()  # token ids, as the model read them
    read: str = ""  # the same as text
    vocabulary: int = 0
    reading: Reading | None = None  # of the first answer; the first has none

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

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


@dataclass
class Reading:
    """How a model follows the answer of the first: token by token, with the words of both."""

    gaps: list[Gap] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # of the answer
    choices: list[str] = field(default_factory=list)  # what it would have said
    tokens: int = 0  # of the whole answer; of a long one only the first part is read
    done: bool = False
    error: QuipError | None = None


def comparable(left: Side, right: Side) -> bool:
    """Both read the same token ids, and mean the same by them."""
    return bool(left.prompt) and left.vocabulary == right.vocabulary and left.prompt == right.prompt


def parting(left: Side, right: Side) -> int | None:
    """Index of the first token in which the answers differ, once both have written it; None while they agree."""
    a, b = ([token.id for token in side.tokens] for side in (left, right))
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


@dataclass(frozen=True)
class Question:
    """What the models are asked, each with a conversation of its own, and the event that ends all answers."""

    conversations: tuple[tuple[Message, ...], ...]
    settings: GenerationSettings
    activations: str = ACTIVATIONS[0]
    in_turn: bool = False
    measured: bool = True  # the others read the first answer
    stop: threading.Event = field(default_factory=threading.Event)


def answers(bench: Bench, paths: Sequence[Path], question: Question) -> Iterator[list[Side]]:
    """Let all models answer; yields their sides whenever something is new, and a last time when all is done."""
    sides = [Side() for _ in paths]
    conductor = threading.Thread(
        target=_in_turn if question.in_turn else _at_once, args=(bench, paths, sides, question), daemon=True
    )
    conductor.start()
    seen: object = None
    try:
        while conductor.is_alive():
            now = [(side.state, len(side.pieces), side.reading and len(side.reading.gaps)) for side in sides]
            if now != seen:
                seen = now
                yield sides
            time.sleep(FRAME)
        yield sides
    finally:  # also when the page was closed
        question.stop.set()


def _at_once(bench: Bench, paths: Sequence[Path], sides: list[Side], question: Question) -> None:
    ready = threading.Barrier(len(sides))  # all begin at the same moment
    threads = [
        threading.Thread(target=_write, args=(partial(bench.get, path), side, talk, question, ready), daemon=True)
        for path, side, talk in zip(paths, sides, question.conversations, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if reference := _keep(partial(bench.get, paths[0]), sides[0], question):
        for path, side in zip(paths[1:], sides[1:], strict=True):
            _read(partial(bench.get, path), sides[0], side, reference, question)


def _in_turn(bench: Bench, paths: Sequence[Path], sides: list[Side], question: Question) -> None:
    reference: list[Tensor] = []
    for side in sides[1:]:
        side.state = "queued"
    for k, (path, side, talk) in enumerate(zip(paths, sides, question.conversations, strict=True)):
        if question.stop.is_set():
            side.state = "stopped"
            continue
        side.state, get = "loading", partial(bench.get, path, alone=True)
        _write(get, side, talk, question, None)
        if k == 0:
            reference = _keep(get, side, question)
        elif reference:
            _read(get, sides[0], side, reference, question)


Get = Callable[[], Loaded]  # loads the model unless it is there


def _write(get: Get, side: Side, talk: Sequence[Message], question: Question, ready: threading.Barrier | None) -> None:
    try:
        loaded = get()
        side.runs_on = str(prepare(loaded.model, question.activations))
        asked = prepare_prompt(
            loaded.model, loaded.tokenizer, fitting(talk, loaded.tokenizer), question.settings.max_tokens
        )
        side.bytes, side.templated, side.notes, side.state = loaded.bytes, asked.templated, asked.notes, "waiting"
        side.prompt, side.read, side.vocabulary = asked.ids, loaded.tokenizer.decode(asked.ids), loaded.vocabulary
        if ready:
            ready.wait()
        side.state = "writing"
        for piece in stream(loaded.model, loaded.tokenizer, asked, question.settings, question.stop):
            side.pieces.append((piece.text, piece.tokens))
            side.state = piece.end or side.state
    except threading.BrokenBarrierError:
        side.state = "stopped"  # another model could not be loaded
    except Exception as error:
        if ready:
            ready.abort()
        side.error, side.state = explain(error), "failed"


def fitting(talk: Sequence[Message], tokenizer: Any) -> list[Message]:
    """The part of a conversation that a model can use: without a template it knows no turns, only the last prompt."""
    if tokenizer.chat_template is not None:
        return list(talk)
    return [message for message in talk[:-1] if message["role"] == "system"] + list(talk[-1:])


def _keep(get: Get, first: Side, question: Question) -> list[Tensor]:
    """What the first model predicts along its own answer, as much as may be kept; nothing where nobody will read it."""
    if not question.measured or question.stop.is_set() or first.error or not first.tokens:
        return []
    kept: list[Tensor] = []
    for part in predictions(get().model, first.prompt, [token.id for token in first.tokens]):
        kept.append(part)
        if question.stop.is_set() or len(kept) * part.numel() * part.element_size() > MOST_KEPT:
            break
    return kept


def _read(get: Get, first: Side, side: Side, reference: Sequence[Tensor], question: Question) -> None:
    """Let a model read the first answer."""
    if side.error or question.stop.is_set() or side.vocabulary != first.vocabulary:
        return
    side.reading = reading = Reading(tokens=len(first.tokens))
    try:
        loaded, answer = get(), [token.id for token in first.tokens]
        other = predictions(loaded.model, first.prompt, answer)
        for gap in gaps(reference, other, answer, question.settings):
            reading.words.append(loaded.tokenizer.decode([gap.token]))
            reading.choices.append(loaded.tokenizer.decode([gap.choice]))
            reading.gaps.append(gap)
            if question.stop.is_set():
                return
        reading.done = True
    except Exception as error:
        reading.error = explain(error)
