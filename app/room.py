"""A conversation with several models, as one page holds it: who stands where, what was asked, what each has said."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

from app.chat import Side, comparable, parting
from quip_engine.generate import GenerationSettings
from quip_engine.prompts import Message

LETTERS = "ABC"


@dataclass(frozen=True)
class Contestant:
    """A model that was chosen."""

    name: str
    path: Path
    quantized: bool


@dataclass(frozen=True)
class Turn:
    """One prompt with the answers of all models, in the order of ``Room.models``."""

    prompt: str
    sides: list[Side]
    settings: GenerationSettings
    in_turn: bool


@dataclass
class Room:
    """Lost on reload. ``order``: which model stands on each side, left to right; shuffled while nobody may know."""

    models: tuple[Contestant, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    system: str = ""
    order: tuple[int, ...] = ()
    blind: bool = False
    voted: bool = False
    vote: int | None = None  # the better model; None where all are equal
    stop: threading.Event | None = None  # of the question that is being answered

    @property
    def busy(self) -> bool:
        return self.stop is not None

    @property
    def hidden(self) -> bool:
        """Nobody may know which side is which."""
        return self.blind and not self.voted

    @property
    def complete(self) -> bool:
        """All have answered, so that a vote can be given."""
        return bool(self.turns) and not self.busy and all(side.error is None for side in self.turns[-1].sides)

    def open(self, models: tuple[Contestant, ...], system: str, blind: bool) -> None:
        """Go on with these models, or begin anew where the turns so far were those of others or are known."""
        if self.turns and (models, blind) == (self.models, self.blind) and not self.voted:
            self.system = system
            return
        sides = list(range(len(models)))
        if blind:
            random.SystemRandom().shuffle(sides)
        self.models, self.system, self.blind, self.order = models, system, blind, tuple(sides)
        self.turns, self.voted, self.vote = [], False, None

    def clear(self) -> None:
        self.turns, self.voted, self.vote, self.blind = [], False, None, False

    def talk(self, model: int, prompt: str) -> tuple[Message, ...]:
        """What one model is asked: its own conversation so far, and the prompt."""
        messages = [{"role": "system", "content": self.system}] if self.system.strip() else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": turn.sides[model].text})
        return (*messages, {"role": "user", "content": prompt})

    def name(self, model: int) -> str:
        """As the page may call a model now."""
        return f"Model {LETTERS[self.order.index(model)]}" if self.hidden else self.models[model].name


def first_difference(turn: Turn, model: int) -> tuple[int, int] | None:
    """Token at which a model's answer parts from the first model's (the first's from any), and with which model."""
    others = range(1, len(turn.sides)) if model == 0 else [0]
    own = turn.sides[model]
    found = [(parting(own, turn.sides[k]), k) for k in others if comparable(own, turn.sides[k])]
    return min(((place, k) for place, k in found if place is not None), default=None)
