"""How answers look while they are written, and how they are set against each other. Pure functions."""

from __future__ import annotations

from app import widgets as w
from app.chat import Reading, Side
from app.fmt import UNKNOWN, duration, fixed, plural, sci, size
from app.room import LETTERS, Room, Turn, first_difference
from quip_engine.agreement import mean_kl, same_share

STATES = {
    "queued": "its turn comes after the others…",
    "loading": "loading the model…",
    "waiting": "waiting for the other model…",
    "writing": "writing…",
    "eos": "ended by itself",
    "length": "longest answer reached",
    "context": "the context of the model is full",
    "stopped": "stopped",
    "failed": "failed",
}
BUSY = ("queued", "loading", "waiting", "writing")
CONTINUES = "{name} continues text: it was not taught to answer questions, so begin a sentence for it. "
CONTINUES += "Each prompt starts anew."
MOST_ROWS = 10  # of the table of differences
CONTEXT = 6  # tokens shown before one of them


def head(quantized: bool | None, side: int, name: str = "") -> w.Html:
    """Who answers on a side; ``quantized`` None: nobody may know."""
    if quantized is None:
        return w.Html(f'<b class="who">Model {LETTERS[side]}</b>')
    mark, title = ("dot", "Quantized") if quantized else ("diamond", "Original")
    said = f"{title} · {name}" if name else title
    return w.Html(f'<b class="who"><i class="mark mark-{mark}"></i>{w.safe(said)}</b>')


def past(room: Room, side: int) -> w.Html:
    """The turns before the last, as one side saw them."""
    if side >= len(room.order):
        return w.Html("")
    model = room.order[side]
    told = [_text(turn.prompt, turn.sides[model]) for turn in room.turns[:-1]]
    return w.Html(f'<div class="answer past">{w.joined(told)}</div>') if told else w.Html("")


def answer(room: Room, side: int) -> w.Html:
    """The last answer of one side: the words, then what they cost, unless that would tell who it is."""
    if side >= len(room.order) or not room.turns:
        return w.Html('<article class="answer idle"><p class="text muted">The answer appears here.</p></article>')
    turn, model = room.turns[-1], room.order[side]
    own = turn.sides[model]
    waits = room.hidden and any(s.state in BUSY for s in turn.sides)
    if waits:  # speed would tell them apart
        body = w.joined([_you(turn.prompt), w.Html('<p class="text muted">All answers appear together.</p>')])
        return _card(True, body)
    marks = None if room.hidden else _difference(room, turn, model)
    body = w.problem(own.error) if own.error else _text(turn.prompt, own, marks)
    costs = () if room.hidden else _costs(own, marks[1] if marks else "")
    return _card(own.state == "writing", body, *costs)


def _card(busy: bool, *content: w.Html) -> w.Html:
    return w.Html(f'<article class="answer" aria-busy="{str(busy).lower()}">{w.joined(content)}</article>')


def _costs(side: Side, difference: str) -> tuple[w.Html, w.Html]:
    numbers = w.stats(
        [
            ("Speed", UNKNOWN if side.speed is None else f"{fixed(side.speed, 1)} tok/s", ""),
            ("First token", duration(side.first_token), ""),
            ("Memory", size(side.bytes or None), ""),
            ("Tokens", len(side.tokens), ""),
        ]
    )
    notes = [sentence for _, sentence in side.notes] + ([f"Runs on {side.runs_on}."] if side.runs_on else [])
    state = STATES[side.state].capitalize() + ("" if side.state in BUSY else ".")
    told = w.note(" ".join([state, *notes]))
    return w.joined([w.tag("p", difference, "note parts-at") if difference else "", told]), numbers


def _you(prompt: str) -> w.Html:
    return w.Html(f'<p class="you"><b>You</b>{w.safe(prompt)}</p>')


def _text(prompt: str, side: Side, marks: tuple[int, str] | None = None) -> w.Html:
    """The answer after its prompt: as one text where the model continues it, else below the question."""
    words, seen = [], 0
    for text, tokens in side.pieces:
        marked = marks is not None and seen <= marks[0] < seen + len(tokens)
        words.append(_mark(text, marks[1]) if marked and marks else w.safe(text))
        seen += len(tokens)
    answer = w.joined(words)
    if side.templated:
        return w.joined([_you(prompt), w.tag("p", answer, "text")])
    return w.tag("p", w.joined([w.tag("span", prompt, "given"), answer]), "text")


def _mark(text: str, title: str) -> w.Html:
    """The piece in which the answers part."""
    word = text.lstrip()
    return w.Html(
        f'{w.safe(text[: len(text) - len(word)])}<mark class="first" title="{w.safe(title)}">{w.safe(word)}</mark>'
    )


def _difference(room: Room, turn: Turn, model: int) -> tuple[int, str] | None:
    """Where an answer parts from another, and what both models thought of both words, as far as that is known."""
    if (found := first_difference(turn, model)) is None:
        return None
    place, rival = found
    own, other = turn.sides[model], turn.sides[rival]
    reading = (other if model == 0 else own).reading
    gap = reading.gaps[place] if reading and len(reading.gaps) > place else None
    exact = gap is not None and gap.choice == (other if model == 0 else own).tokens[place].id
    word, said = _word_at(own, place), _word_at(other, place)
    mine, theirs = percent(own.tokens[place].probability), percent(other.tokens[place].probability)
    if gap and exact:
        here, there = (gap.p_choice, gap.q) if model == 0 else (gap.q, gap.p_choice)
        mine, theirs = f"{mine} here, {percent(there)} there", f"{theirs} there, {percent(here)} here"
    name = room.name(rival)
    return place, f"Token {place + 1} is the first that differs: “{word}” ({mine}); {name} says “{said}” ({theirs})."


def _word_at(side: Side, place: int) -> str:
    seen = 0
    for text, tokens in side.pieces:
        if seen <= place < seen + len(tokens):
            return text.strip()
        seen += len(tokens)
    return "…"


def percent(p: float) -> str:
    """A probability: ``41 %``, ``0.3 %`` below one."""
    return f"{100 * p:.0f} %" if p >= 0.00995 else f"{100 * p:.1f} %" if p >= 0.0005 else "under 0.1 %"


def agreement(reading: Reading, first: str, name: str) -> str:
    """The teacher-forced figures in a sentence."""
    if reading.error:
        return f"{name} could not read the answer: {reading.error.message}"
    found = reading.gaps
    if not found:
        return f"{name} reads the answer…"
    same = sum(gap.same for gap in found)
    much = f"{same} of {plural(len(found), 'token')} ({100 * same_share(found):.1f} %)"
    part = f" Only the first part of {reading.tokens} tokens was read, to save memory."
    more = " So far." if not reading.done else part if len(found) < reading.tokens else ""
    said = f"Reading {first}'s answer, {name} would have said the same {much}; mean KL {sci(mean_kl(found))} nats."
    return f"{said} Measured along one text, so an early difference does not count twice.{more}"


def differences(reading: Reading, first: str, name: str) -> w.Html:
    """The words at which a model would have left the answer, and the probability each word has with both."""
    rows: list[list[object]] = []
    for k, gap in enumerate(reading.gaps):
        if gap.same or len(rows) == MOST_ROWS:
            continue
        before = " ".join("".join(reading.words[max(0, k - CONTEXT) : k]).split())
        said = [_word(reading.words[k]), percent(gap.p), percent(gap.q)]
        would = [_word(reading.choices[k]), percent(gap.p_choice), percent(gap.q_choice)]
        rows.append([k + 1, w.tag("span", f"… {before}", "context"), *said, *would, sci(gap.kl)])
    if not rows:
        return w.note(f"{name} would have written the same words." if reading.done else "")
    by = [(f"by {first}", "num"), (f"by {name}", "num")]
    columns = [("Token", "text"), ("After", "text"), (f"{first} says", "text"), *by, (f"{name} would say", "text"), *by]
    table = w.table([*columns, ("KL", "num")], rows, f"Where {name} would leave the answer", "stack")
    left = sum(not gap.same for gap in reading.gaps) - len(rows)
    more = f" The first {len(rows)} places; the figure has {left} more." if left else ""
    note = w.note(f"Probability of each word, as each model gives it there.{more}")
    return w.Html(f'<div class="parts">{w.joined([note, table])}</div>')


def _word(word: str) -> w.Html:
    return w.tag("code", word.strip() or repr(word)[1:-1])


def reads(texts: list[tuple[str, str]]) -> w.Html:
    """What models are given to read, each text once: (name, text)."""
    names: dict[str, list[str]] = {}
    for name, text in texts:
        names.setdefault(text, []).append(name)
    shown = [
        w.joined([w.tag("p", " and ".join(who), "note"), w.Html(f'<pre tabindex="0">{w.safe(text)}</pre>')])
        for text, who in names.items()
    ]
    return w.Html(f'<div class="reads">{w.joined(shown)}</div>')
