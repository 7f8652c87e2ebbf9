"""A conversation to keep: as JSON with every figure, and as Markdown to read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from app.answers import STATES
from app.chat import Side
from app.fmt import duration, fixed, sci, size
from app.room import Room, Turn, first_difference
from quip_engine.agreement import mean_kl, same_share


def as_json(room: Room) -> str:
    return json.dumps(record(room), indent=2, ensure_ascii=False)


def record(room: Room) -> dict[str, Any]:
    """Models, settings, answers and figures."""
    return {
        "models": [{"name": m.name, "path": str(m.path), "quantized": m.quantized} for m in room.models],
        "system": room.system,
        "turns": [_turn(room, turn) for turn in room.turns],
        "blind": room.blind,
        "vote": None if not room.voted else "equal" if room.vote is None else room.models[room.vote].name,
    }


def _turn(room: Room, turn: Turn) -> dict[str, Any]:
    answers = []
    for k, side in enumerate(turn.sides):
        parts = first_difference(turn, k)
        answers.append({"model": room.models[k].name, **_answer(side), "parts_at": parts[0] if parts else None})
    return {
        "prompt": turn.prompt,
        "settings": asdict(turn.settings),
        "one_after_the_other": turn.in_turn,
        "answers": answers,
    }


def _answer(side: Side) -> dict[str, Any]:
    told: dict[str, Any] = {
        "text": side.text,
        "end": side.state,
        "tokens": [{"id": token.id, "probability": token.probability} for token in side.tokens],
        "tokens_per_second": side.speed,
        "first_token_seconds": side.first_token,
        "memory_bytes": side.bytes,
        "runs_on": side.runs_on,
        "notes": [text for _, text in side.notes],
        "read": side.read,
    }
    if side.error:
        told["error"] = side.error.to_json()
    if side.reading and side.reading.gaps:
        found = side.reading.gaps
        told["agreement"] = {"tokens": len(found), "same": same_share(found), "mean_kl": mean_kl(found)}
        told["agreement"]["along"] = [asdict(gap) for gap in found]
    return told


def as_markdown(room: Room) -> str:
    """Headings for the turns, one quoted answer after the other, figures below each."""
    models = [f"- {m.name}: `{m.path}`" for m in room.models]
    lines = ["# Comparison", "", *models, ""]
    if room.system.strip():
        lines += ["System prompt:", "", *_quoted(room.system), ""]
    for number, turn in enumerate(room.turns, 1):
        s = turn.settings
        sampling = f"temperature {s.temperature:g}, top p {s.top_p:g}, top k {s.top_k}, seed {s.seed}"
        order = "one after the other" if turn.in_turn else "at once"
        lines += [
            f"## Prompt {number}",
            "",
            *_quoted(turn.prompt),
            "",
            f"{sampling[0].upper()}{sampling[1:]}; {order}.",
        ]
        for model, side in zip(room.models, turn.sides, strict=True):
            lines += ["", f"### {model.name}", "", *_quoted(side.text), "", _figures(side)]
        lines.append("")
    if room.voted:
        lines.append("Blind vote: " + ("equal." if room.vote is None else f"{room.models[room.vote].name} is better."))
    return "\n".join(lines).rstrip() + "\n"


def _quoted(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.split("\n")]


def _figures(side: Side) -> str:
    if side.error:
        return f"Failed: {side.error.message}"
    costs = [f"{len(side.tokens)} tokens", f"{fixed(side.speed, 1)} tok/s", f"first token {duration(side.first_token)}"]
    costs += [size(side.bytes or None), STATES[side.state]]
    if side.reading and side.reading.gaps:
        found = side.reading.gaps
        costs.append(f"would have said {100 * same_share(found):.1f} % of the first answer's tokens")
        costs.append(f"mean KL {sci(mean_kl(found))} nats")
    return ", ".join(costs) + "."
