"""What the Compare tab does: choosing models, asking, going back, voting. Handlers give new values by part's name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import compare_views as look
from app import widgets as w
from app.answers import reads
from app.chat import Question, answers, fitting
from app.forms import whole
from app.room import Contestant, Room, Turn
from app.state import explain
from app.studio import Studio
from app.transcript import as_json, as_markdown
from app.views import checkpoint
from app.votes import Votes
from quip_engine.config import ACTIVATIONS
from quip_engine.errors import QuipError, fail
from quip_engine.generate import GenerationSettings
from quip_engine.loading import checked_tokenizer
from quip_engine.probe import locate
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import read_config
from quip_engine.prompts import write

AUTOMATIC, AT_ONCE, IN_TURN = "When they fit", "Always", "Never"
PRODUCTS = dict(zip(("floats", "8-bit integers"), ACTIVATIONS, strict=True))
LETTERS_A_TOKEN = 3  # at least, in most languages: for the size of caches
Values = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """What the page holds when it asks, in the order of its inputs."""

    prompt: str
    system: str
    left: str | None
    right: str | None
    third: str | None
    blind: bool
    order: str
    measured: bool
    temperature: Any
    top_p: Any
    top_k: Any
    seed: Any
    max_tokens: Any
    activations: str

    @property
    def choices(self) -> list[str]:
        return [str(self.left or ""), str(self.right or ""), *([str(self.third)] if self.third else [])]

    def settings(self) -> GenerationSettings:
        """Raises ``BAD_SETTING``."""
        return GenerationSettings(
            whole(self.max_tokens), self.temperature, self.top_p, whole(self.top_k), whole(self.seed)
        )


class Desk:
    """One question at a time for each page; another page has its own room."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.bench, self.votes = studio, studio.bench, Votes(studio.home)

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, room: Room, *given: Any) -> Iterator[Values]:
        """Stream the answers of all models into the page."""
        yield from self._ask(room, Form(*given))

    def again(self, room: Room, *given: Any) -> Iterator[Values]:
        """Ask the last prompt once more; where chance has a say, with the next seed."""
        form = Form(*given)
        if room.busy or not room.turns:
            return
        form = replace(form, prompt=room.turns.pop().prompt)
        if isinstance(form.seed, int | float) and form.temperature:
            form = replace(form, seed=form.seed + 1)
            yield {"seed": form.seed}
        yield from self._ask(room, form)

    def _ask(self, room: Room, form: Form) -> Iterator[Values]:
        if room.busy or not form.prompt.strip():
            return
        room.stop = threading.Event()
        try:
            yield from self._answered(room, form, room.stop)
        except Exception as error:
            room.stop = None
            yield {**self._whole(room), "problem": gr.update(value=w.problem(explain(error)), visible=True)}
        finally:
            room.stop = None

    def _answered(self, room: Room, form: Form, stop: threading.Event) -> Iterator[Values]:
        yield {"problem": gr.update(visible=False), **look.buttons(room)}
        models, settings = self.contestants(form.choices), form.settings()
        activations = PRODUCTS.get(form.activations, form.activations)
        in_turn = self._in_turn(models, form)
        room.open(models, form.system, form.blind)
        talks = tuple(room.talk(k, form.prompt) for k in range(len(models)))
        question = Question(talks, settings, activations, in_turn, bool(form.measured), stop)
        first = True
        for sides in answers(self.bench, [model.path for model in models], question):
            if first:
                room.turns.append(Turn(form.prompt, sides, settings, in_turn))
                yield {**self._whole(room), "prompt": ""}
            first = False
            yield look.frame(room)
        room.stop = None
        yield self._whole(room)

    def stop(self, room: Room) -> None:
        if room.stop:
            room.stop.set()

    def _in_turn(self, models: tuple[Contestant, ...], form: Form) -> bool:
        """Whether they answer one after the other; makes room where all at once need it."""
        paths = [model.path for model in models]
        if form.order == IN_TURN:
            return True
        forecast = self.bench.forecast(paths, _tokens(form))
        if form.order == AUTOMATIC and not forecast.fits:
            return True
        if sum(forecast.needs) > forecast.memory.free:
            self.bench.make_room(paths)
        return False

    # -- choosing ------------------------------------------------------------------------------------------------------

    def contestants(self, choices: list[str]) -> tuple[Contestant, ...]:
        """The models that were chosen: runs by id, others by folder or hub id. Raises the coded errors."""
        return tuple(self._contestant(choice.strip()) for choice in choices)

    def _contestant(self, choice: str) -> Contestant:
        run = next((run for run in self.studio.follower.finished() if run.id == choice), None)
        if run:
            if not checkpoint(run).is_dir():
                fail("MODEL_GONE", name=run.name)
            return Contestant(look.run_name(run), checkpoint(run), True)
        if not choice:
            fail("NO_MODEL")
        folder, name = locate(choice, offline=True)
        return Contestant(Path(name).name, folder, packing_of(read_config(folder), folder) is not None)

    def original_of(self, choice: str) -> Any:
        """Beside a run stands its original."""
        run = next((run for run in self.studio.follower.finished() if run.id == choice), None)
        return run.job.model if run else gr.skip()

    def forecast(self, room: Room, *given: Any) -> Values:
        """Whether the models fit beside each other, and before the first prompt the heads of their sides."""
        form = Form(*given)
        try:
            models = self.contestants(form.choices)
            forecast = self.bench.forecast([model.path for model in models], _tokens(form))
        except QuipError as error:
            return {"memory": w.note(f"{error.message} {error.hint}")}
        note = look.memory(models, forecast, form.order)
        if not room.turns:
            return {"memory": note, **look.heads([model.quantized for model in models])}
        if models != room.models:
            note = w.joined([w.note("The next prompt begins a new conversation, with these models."), note])
        return {"memory": note}

    def third(self, room: Room, present: bool, right: str) -> Values:
        """Show a third side, or take it away."""
        return {
            **self._whole(room),
            "third": gr.update(value=right if present else None),
            "third_side": gr.update(visible=present),
            "add": gr.update(visible=not present),
        }

    def read(self, room: Room, *given: Any) -> Values:
        """What each model would be given to read for the prompt as it stands; without one, what it was given last."""
        form = Form(*given)
        try:
            if not form.prompt.strip() and room.turns:
                sides = room.turns[-1].sides
                return {"reads": reads([(room.name(k), side.read) for k, side in enumerate(sides) if side.read])}
            return {"reads": reads([self._reads(room, form, k, c) for k, c in enumerate(form.choices)])}
        except QuipError as error:
            return {"reads": w.problem(error)}

    def _reads(self, room: Room, form: Form, k: int, choice: str) -> tuple[str, str]:
        model = self._contestant(choice)
        loaded = self.bench.loaded(model.path)
        tokenizer = loaded.tokenizer if loaded else checked_tokenizer(str(model.path))[1]
        known = room.turns and k < len(room.models) and room.models[k] == model
        talk = room.talk(k, form.prompt) if known else Room(system=form.system).talk(0, form.prompt)
        return model.name, write(tokenizer, fitting(talk, tokenizer))[0]

    # -- going back, voting, keeping -----------------------------------------------------------------------------------

    def edit(self, room: Room) -> Values:
        """The last prompt back into its box, its answers gone."""
        if room.busy or not room.turns:
            return {}
        prompt = room.turns.pop().prompt
        return {**self._whole(room), "prompt": prompt}

    def clear(self, room: Room) -> Values:
        if not room.busy:
            room.clear()
        return {**self._whole(room), "problem": gr.update(visible=False)}

    def vote(self, room: Room, side: str) -> Values:
        """Keep a vote for the left, middle or right side, or for none (``equal``), and tell who is who."""
        if not (room.hidden and room.complete):
            return {}
        place = {"left": 0, "middle": 1, "right": len(room.models) - 1}.get(side)
        room.vote = None if place is None else room.order[place]
        room.voted = True
        self.votes.add(room)
        return self._whole(room)

    def blinded(self, room: Room, blind: bool) -> Values:
        """The switch: what a blind vote is, or names again."""
        if not blind and not room.busy:
            room.blind, room.order = False, tuple(range(len(room.models)))
        return {**self._whole(room), "ballot": gr.update(visible=blind or room.blind)}

    def kept(self, room: Room, kind: str) -> list[str]:
        """Name and text of a transcript; nothing where it would tell too much, or there is none."""
        if room.hidden or room.busy or not room.turns:
            return ["", ""]
        return [f"comparison.{kind}", as_json(room) if kind == "json" else as_markdown(room)]

    def _whole(self, room: Room) -> Values:
        return look.whole(room, self.votes.score(room.models))


def _tokens(form: Form) -> int:
    """Tokens of prompt and answer, roughly."""
    number = form.max_tokens if isinstance(form.max_tokens, int | float) else 0
    return int(number) + len(form.prompt) // LETTERS_A_TOKEN
