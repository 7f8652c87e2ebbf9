"""Compare without a browser: the desk over two tiny models, as a page asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from breaking import EXPANDS, tokenizer
from helpers import edit_json, tiny_model

from app import answers as told
from app.bench import Forecast
from app.chat import comparable, parting
from app.compare_desk import AT_ONCE, AUTOMATIC, IN_TURN, Desk
from app.compare_views import memory
from app.figures.divergence import divergence
from app.machine import Memory
from app.room import Contestant, Room, first_difference
from app.studio import Studio
from app.votes import Score, Votes

TEMPLATE = "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{% endfor %}[me]"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    found = [tiny_model(tmp_path_factory.mktemp(name), seed=k) for k, name in enumerate(("one", "two", "three"))]
    for folder in found:
        edit_json(folder / "generation_config.json", eos_token_id=None)
        edit_json(folder / "tokenizer_config.json", eos_token=None)
    edit_json(found[2] / "tokenizer_config.json", chat_template=TEMPLATE)
    return [str(folder) for folder in found]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(Studio(tmp_path_factory.mktemp("home")))


def form(folders: list[str], prompt: str = "Once <b>", **changes: Any) -> list[Any]:
    left, right, third = (*folders, None)[:3]
    values = {"prompt": prompt, "system": "", "left": left, "right": right, "third": third, "blind": False}
    values |= {"order": AUTOMATIC, "measured": True, "temperature": 0.5, "top_p": 1, "top_k": 0, "seed": 0}
    return list({**values, "max_tokens": 6, "activations": "floats", **changes}.values())


def ask(desk: Desk, room: Room, given: list[Any]) -> dict[str, Any]:
    """All values that arrived, the last of each part."""
    shown: dict[str, Any] = {}
    for values in desk.ask(room, *given):
        shown |= values
    return shown


@pytest.mark.parametrize("order", [AT_ONCE, IN_TURN])
def test_models_answer_at_once_or_in_turn_alike(desk: Desk, folders: list[str], order: str) -> None:
    room = Room()
    shown = ask(desk, room, form(folders[:2], order=order, temperature=0))
    assert "&lt;b&gt;" in shown["left_answer"]
    assert "<b>" not in shown["left_answer"]
    (turn,) = room.turns
    assert [len(side.tokens) for side in turn.sides] == [6, 6]
    assert (turn.in_turn, room.busy, turn.sides[1].state) == (order == IN_TURN, False, "length")
    reading = turn.sides[1].reading
    assert reading is not None
    assert (len(reading.gaps), reading.done) == (6, True)
    place = parting(*turn.sides)
    assert place is not None
    assert reading.gaps[place].choice == turn.sides[1].tokens[place].id
    assert first_difference(turn, 0) == (place, 1)
    assert f"Token {place + 1} is the first that differs" in shown["right_answer"]
    assert "would have said the same" in shown["second_title"]
    assert json.loads(shown["second"])["summary"].startswith("KL divergence at each of 6 tokens")
    loaded = [desk.bench.loaded(Path(folder)) is not None for folder in folders[:2]]
    assert loaded == ([False, True] if order == IN_TURN else [True, True])


def test_three_models_and_a_template(desk: Desk, folders: list[str]) -> None:
    room = Room()
    given = form(folders, system="Be brief.", measured=False)
    ask(desk, room, given)
    shown = ask(desk, room, form(folders, "More", system="Be brief.", measured=False))
    first, last = room.turns[0].sides[2], room.turns[1].sides[2]
    assert first.read == "[s]Be brief.[u]Once <b>[me]"
    assert last.read == f"[s]Be brief.[u]Once <b>[a]{first.text}[u]More[me]"
    assert room.turns[1].sides[0].read == "Be brief.\n\nMore"  # no template, no turns
    assert not comparable(room.turns[0].sides[0], first)
    assert first.reading is None
    assert "Once &lt;b&gt;" in shown["third_past"]
    assert "continues text" in shown["hint"]["value"]
    preview = desk.read(room, *form(folders, "And?", system="Be brief."))["reads"]
    assert "[u]And?[me]" in preview


def test_going_back(desk: Desk, folders: list[str]) -> None:
    room = Room()
    ask(desk, room, form(folders[:2], "Once"))
    first = room.turns[0].sides[0].text
    values = list(desk.again(room, *form(folders[:2], "unsent")))
    assert (values[0], room.turns[0].prompt, room.turns[0].settings.seed) == ({"seed": 1}, "Once", 1)
    assert len(room.turns) == 1
    assert room.turns[0].sides[0].text != first
    assert (desk.edit(room)["prompt"], room.turns) == ("Once", [])
    assert desk.edit(room) == {}
    ask(desk, room, form(folders[:2], "Once"))
    ask(desk, room, form(folders[1:], "Twice"))  # other models: a new conversation
    assert [turn.prompt for turn in room.turns] == ["Twice"]
    desk.clear(room)
    assert room.turns == []


def test_a_blind_vote_hides_until_it_is_given(desk: Desk, folders: list[str]) -> None:
    room, names = Room(), ["tiny-llama", "Quantized", "Original", "tok/s", folders[0]]
    shown = ask(desk, room, form(folders[:2], blind=True))
    assert room.hidden
    page = json.dumps(shown, default=str)
    assert not [name for name in names if name in page]
    assert desk.kept(room, "json") == ["", ""]
    told = desk.vote(room, "right")
    assert room.vote == room.order[1]
    assert "is tiny-llama" in told["ballot_text"]
    assert "Original · tiny-llama" in told["left_head"]
    assert desk.vote(room, "left") == {}  # once
    assert [s.better for s in desk.votes.score(room.models)] == [int(room.vote == k) for k in range(2)]
    record = json.loads(desk.kept(room, "json")[1])
    assert record["vote"] == "tiny-llama"
    assert record["turns"][0]["answers"][1]["agreement"]["tokens"] == 6
    assert "Blind vote: tiny-llama is better." in desk.kept(room, "md")[1]
    ask(desk, room, form(folders[:2], "again", blind=True))
    assert (room.hidden, len(room.turns)) == (True, 1)


def test_votes_are_counted_for_the_same_models_only(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    models = tuple(Contestant(name, Path("/m") / name, quantized=False) for name in "ab")
    (tmp_path / "votes.jsonl").write_text(
        "not json\n{}\n"
        + "".join(
            json.dumps({"models": [{"path": f"/m/{x}"} for x in pair], "better": better}) + "\n"
            for pair, better in (("ab", 0), ("ba", 0), ("ab", None), ("ac", 0), ("ab", 7))
        )
    )
    assert votes.score(models) == [Score("a", 1, 1, 1), Score("b", 1, 1, 1)]


def test_what_cannot_be_asked_is_said(desk: Desk, folders: list[str]) -> None:
    room = Room()
    shown = ask(desk, room, form([folders[0], "/nowhere"]))
    assert "NOT_FOUND" in shown["problem"]["value"]
    assert "BAD_SETTING" in ask(desk, room, form(folders[:2], max_tokens=0))["problem"]["value"]
    assert "BAD_SETTING" in ask(desk, room, form(folders[:2], temperature=None))["problem"]["value"]
    assert (room.turns, room.busy) == ([], False)
    assert ask(desk, room, form(folders[:2], "  ")) == {}
    assert "No file or folder" in desk.forecast(room, *form([folders[0], "/nowhere"]))["memory"]


def test_a_tokenizer_or_template_of_a_stranger_is_not_read_here(tmp_path: Path, desk: Desk) -> None:
    evil = tiny_model(tmp_path)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (evil / "chat_template.jinja").write_text(loops)
    reads = desk.read(Room(), *form([str(evil), str(evil)], "Once"))["reads"]
    assert "Once" in reads
    tokenizer(normalizer=EXPANDS)(evil)  # would end the process
    assert "BAD_TOKENIZER" in desk.read(Room(), *form([str(evil), str(evil)], "Once"))["reads"]


def test_memory_is_told_before_loading(desk: Desk, folders: list[str]) -> None:
    models = [Contestant(name, Path(name), quantized=False) for name in ("big", "small")]
    tight = Forecast((6 * 10**9, 5 * 10**9), 8 * 10**9, Memory("RTX 4070", 0, 8 * 10**9), loaded=False)
    assert "need 11.0 GB with their caches; 8.0 GB of RTX 4070 are free: they answer one" in memory(
        models, tight, AUTOMATIC
    )
    assert "banner-warn" in memory(models, tight, AT_ONCE)
    huge = Forecast((9 * 10**9, 10**9), 8 * 10**9, Memory("Memory", 0, 8 * 10**9), loaded=False)
    assert "big alone needs 9.0 GB, and 8.0 GB of memory" in memory(models, huge, IN_TURN)
    assert "they answer" in desk.forecast(Room(), *form(folders[:2]))["memory"]


def test_stopping_ends_all(desk: Desk, folders: list[str]) -> None:
    room = Room()
    asking = desk.ask(room, *form(folders[:2], max_tokens=50))
    next(asking)
    desk.stop(room)
    list(asking)
    assert {side.state for side in room.turns[0].sides} <= {"stopped", "length"}
    assert room.turns[0].sides[1].reading is None


def test_divergence_figure() -> None:
    figure = divergence(["a", "<b>", " c"], [1e-2, 0.5, 0.0], [None, "x" * 20, None], "two", "run")
    stems, same, differ = figure["data"]
    assert (stems["x"], stems["y"][1:]) == ([2, 2, None], [0.5, None])
    assert same["x"] == [1, 3]
    assert (differ["text"], differ["customdata"][0][:9]) == (["xxxxxxxxxxx…"], "&lt;b&gt;")
    assert divergence([], [], [], "two", "run")["data"][1]["x"] == []


def test_probabilities() -> None:
    assert [told.percent(p) for p in (1.0, 0.414, 0.006, 1e-5)] == ["100 %", "41 %", "0.6 %", "under 0.1 %"]


def test_device_of_the_settings_is_used(desk: Desk, folders: list[str]) -> None:
    assert desk.bench.get(Path(folders[0])).model.device == torch.device("cpu")
