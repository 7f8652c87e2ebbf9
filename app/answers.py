"""How an answer looks while it is written, and how two of them are set against each other."""

from __future__ import annotations

from app import widgets as w
from app.chat import Side, parting
from app.fmt import UNKNOWN, duration, fixed, size

STATES = {
    "loading": "loading the model…",
    "waiting": "waiting for the other model…",
    "writing": "writing…",
    "eos": "ended by itself",
    "length": "longest answer reached",
    "context": "the context of the model is full",
    "stopped": "stopped",
    "failed": "failed",
}
CONTINUES = "This model continues text: it was not taught to answer questions, so begin a sentence for it."


def answer_cards(prompt: str, left: Side, right: Side, same_words: bool) -> tuple[w.Html, w.Html]:
    """Both answers; where both models share a vocabulary, the first token in which they differ is marked."""
    place = parting(left, right) if same_words else None
    return answer_card(prompt, left, right, place, "quantized"), answer_card(prompt, right, left, place, "original")


def answer_card(prompt: str, side: Side | None, other: Side | None, place: int | None, name: str) -> w.Html:
    """One answer: the words, then what they cost. ``other`` is the ``name`` model's answer."""
    if side is None:
        return w.Html('<article class="answer idle"><p class="text muted">The answer appears here.</p></article>')
    body = w.problem(side.error) if side.error else _text(prompt, side, other, place, name)
    notes = [sentence for _, sentence in side.notes]
    numbers = w.stats(
        [
            ("Speed", UNKNOWN if side.speed is None else f"{fixed(side.speed, 1)} tok/s", ""),
            ("First token", duration(side.first_token), ""),
            ("Memory", size(side.bytes or None), ""),
            ("Tokens", len(side.tokens), ""),
        ]
    )
    notes += [f"Runs on {side.runs_on}."] if side.runs_on else []
    below = w.note(" ".join([STATES[side.state].capitalize() + ("" if side.state == "writing" else "."), *notes]))
    return w.Html(
        f'<article class="answer" aria-busy="{str(side.state == "writing").lower()}">{body}{below}{numbers}</article>'
    )


def _text(prompt: str, side: Side, other: Side | None, place: int | None, name: str) -> w.Html:
    """The answer after its prompt: as one text where the model continues it, else below the question."""
    words, seen = [], 0
    for text, tokens in side.pieces:
        marked = place is not None and seen <= place < seen + len(tokens)
        words.append(_mark(text, place, side, other, name) if marked and place is not None else w.safe(text))
        seen += len(tokens)
    answer = w.joined(words)
    if side.templated:
        return w.joined([w.Html(f'<p class="you"><b>You</b>{w.safe(prompt)}</p>'), w.tag("p", answer, "text")])
    return w.tag("p", w.joined([w.tag("span", prompt, "given"), answer]), "text")


def _mark(text: str, place: int, side: Side, other: Side | None, name: str) -> w.Html:
    """The piece in which the answers part, with what each model thought of its own word."""
    here = f"{100 * side.tokens[place].probability:.0f} % here"
    there = _piece_at(other, place) if other else None
    said = f"; the {name} model says “{there[0].strip()}” ({100 * there[1]:.0f} %)" if there else ""
    word, title = text.lstrip(), w.safe(f"First difference: {here}{said}")
    return w.Html(f'{w.safe(text[: len(text) - len(word)])}<mark class="first" title="{title}">{w.safe(word)}</mark>')


def _piece_at(side: Side, place: int) -> tuple[str, float] | None:
    seen = 0
    for text, tokens in side.pieces:
        if seen <= place < seen + len(tokens):
            return text, tokens[place - seen].probability
        seen += len(tokens)
    return None
