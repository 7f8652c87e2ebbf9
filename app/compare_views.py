"""What the Compare tab shows of a conversation: every part by name, from the room alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app import answers as told
from app import widgets as w
from app.bench import Forecast
from app.figures.divergence import divergence
from app.fmt import plural, size
from app.live_plot import dumps
from app.room import LETTERS, Contestant, Room
from app.votes import Score
from quip_engine.runs import Run

SIDES = ("left", "right", "third")
PLOTTED = ("second", "other")  # readings of the first answer: by the second model, and by the third


def run_name(run: Run) -> str:
    return f"{run.job.title}, {run.id.replace('-', ' ')}"


def heads(quantized: Sequence[bool | None]) -> dict[str, Any]:
    return {f"{SIDES[k]}_head": told.head(kind, k) for k, kind in enumerate(quantized)}


def buttons(room: Room) -> dict[str, Any]:
    """Everything that may be pressed, from the state of the conversation."""
    turns = bool(room.turns)
    known = turns and not room.busy and not room.hidden
    back = gr.update(interactive=turns and not room.busy)
    return {
        "send": gr.update(interactive=not room.busy),
        "stop": gr.update(interactive=room.busy),
        **dict.fromkeys(("again", "edit", "clear"), back),
        **dict.fromkeys(("markdown", "json"), gr.update(interactive=known)),
        "blind": gr.update(interactive=not room.busy),
        **dict.fromkeys(("add", "remove"), gr.update(interactive=not room.busy and not (room.blind and turns))),
    }


def whole(room: Room, score: Sequence[Score]) -> dict[str, Any]:
    """All parts, for the moments when more than the answers has changed."""
    models = [room.models[k] for k in room.order] if room.turns else []
    if room.blind:  # the choices stand where they were made, the answers may not
        named = {f"{SIDES[k]}_head": told.head(*_shown(room, k)) for k in range(len(models))}
    else:
        named = heads([model.quantized for model in models])
    chosen = gr.update(visible=not (room.blind and room.turns))
    return {
        **buttons(room),
        **{f"{side}_past": told.past(room, k) for k, side in enumerate(SIDES)},
        **named,
        **dict.fromkeys(SIDES, chosen),
        "suggestions": gr.update(visible=not room.turns),
        **_ballot(room, score),
        **frame(room),
    }


def _shown(room: Room, side: int) -> tuple[bool | None, int, str]:
    model = room.models[room.order[side]]
    return (None, side, "") if room.hidden else (model.quantized, side, model.name)


def frame(room: Room) -> dict[str, Any]:
    """The parts that change while models write and read."""
    values: dict[str, Any] = {f"{side}_answer": told.answer(room, k) for k, side in enumerate(SIDES)}
    hint = _hint(room)
    values["hint"] = gr.update(value=w.note(hint), visible=bool(hint))
    return {**values, **_readings(room)}


def _hint(room: Room) -> str:
    if not room.turns or room.hidden:
        return ""
    plain = [room.name(k) for k, side in enumerate(room.turns[-1].sides) if side.prompt and not side.templated]
    if not plain:
        return ""
    if len(plain) == len(room.models):
        return told.CONTINUES.format(name="This kind of model")
    return told.CONTINUES.format(name=" and ".join(plain))


def _readings(room: Room) -> dict[str, Any]:
    values: dict[str, Any] = {}
    sides = room.turns[-1].sides if room.turns and not room.hidden else []
    for k, part in enumerate(PLOTTED, 1):
        reading = sides[k].reading if k < len(sides) else None
        if reading is None:
            values |= dict.fromkeys((part, f"{part}_title", f"{part}_table"), "")
            continue
        first, name = room.name(0), room.name(k)
        if reading.gaps and reading.done:
            words = [None if gap.same else word for gap, word in zip(reading.gaps, reading.choices, strict=False)]
            kl = [gap.kl for gap in reading.gaps]
            run = f"{len(room.turns)} {room.turns[-1].prompt[:40]} {k}"
            values[part] = dumps(divergence(reading.words, kl, words, name, run))
            values[f"{part}_table"] = told.differences(reading, first, name)
        values[f"{part}_title"] = w.heading(f"Where {name} parts", told.agreement(reading, first, name), 3)
    return values


def _ballot(room: Room, score: Sequence[Score]) -> dict[str, Any]:
    """The card of the blind vote: what to do, the buttons, who was who, the score."""
    open_ = room.hidden and room.complete
    if not room.turns or not room.blind:
        text = "Send a prompt: sides are shuffled, and names, speed and memory stay hidden until you have voted."
    elif room.hidden:
        text = "Which answer is better?" if open_ else "All answers appear together; then you vote."
    else:
        who = ", ".join(f"Model {LETTERS[k]} is {room.models[m].name}" for k, m in enumerate(room.order))
        best = "Equal" if room.vote is None else f"{room.models[room.vote].name} was better"
        text = f"You said: {best}. {who}. The next prompt begins a new round."
    three = len(room.models) > 2
    values: dict[str, Any] = {f"vote_{side}": gr.update(interactive=open_) for side in ("left", "equal", "right")}
    values["vote_middle"] = gr.update(visible=three, interactive=open_)
    return {**values, "ballot_text": w.heading("Blind vote", text, 3), "score": _score(score)}


def _score(score: Sequence[Score]) -> w.Html:
    votes = score[0].better + score[0].equal + score[0].worse if score else 0
    if not votes:
        return w.note("No votes on these models yet.")
    shares = [f"{s.name} better {s.better}" for s in score] + [f"equal {score[0].equal}"]
    return w.note(f"{plural(votes, 'vote')} on these models: {', '.join(shares)}.")


def memory(models: Sequence[Contestant], forecast: Forecast, order: str) -> w.Html:
    """Whether the models fit beside each other, before one of them is loaded."""
    together, free = sum(forecast.needs), forecast.free
    where = "memory" if forecast.memory.label == "Memory" else forecast.memory.label
    all_ = "Both" if len(models) == 2 else "All three"
    said = f"need {size(together)} with their caches; {size(free)} of {where} are free"
    if max(forecast.needs) > free:
        worst = models[min(forecast.needs.index(max(forecast.needs)), len(models) - 1)].name
        alone = f"{worst} alone needs {size(max(forecast.needs))}, and {size(free)} of {where} are free: "
        return w.banner("warn", "This may not fit", f"{alone}it may fail to load.", "Choose a smaller model.")
    if order == "Never":
        return w.note(f"They answer one after the other, as asked. {all_} {said}.")
    if forecast.loaded and forecast.fits:
        return w.note(f"{all_} are loaded: they answer at once.")
    if forecast.fits:
        return w.note(f"{all_} {said}: they answer at once.")
    if order == "Always":
        todo = "Let them answer one after the other."
        return w.banner("warn", "This may not fit", f"{all_} {said}.", todo)
    return w.note(f"{all_} {said}: they answer one after the other, each loaded alone.")
