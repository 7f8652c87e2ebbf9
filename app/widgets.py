"""Small pieces of HTML used by every tab. Text is escaped here, so callers pass plain strings (or ``Html``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.live import live
from quip_engine.errors import QuipError


class Html(str):
    """Markup that is already safe."""


def safe(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def joined(parts: Sequence[object], separator: str = "") -> Html:
    return Html(separator.join(safe(part) for part in parts))


def tag(name: str, content: object, css: str = "") -> Html:
    """One element around escaped content."""
    return Html(f'<{name} class="{css}">{safe(content)}</{name}>' if css else f"<{name}>{safe(content)}</{name}>")


def pill(text: str, kind: str = "plain") -> Html:
    """A state word with a dot; the word carries the meaning, the colour repeats it."""
    return Html(f'<span class="pill pill-{kind}"><i></i>{safe(text)}</span>')


def heading(title: object, note: object = "", level: int = 2) -> Html:
    below = tag("p", note) if note else ""
    return Html(f'<div class="heading"><h{level}>{safe(title)}</h{level}>{below}</div>')


def note(text: object) -> Html:
    return Html(f'<p class="note">{safe(text)}</p>')


def stats(items: Sequence[tuple[object, object, object]], columns: int = 0) -> Html:
    """Figures in a grid: (label, value, note); one row unless told otherwise."""
    cells = "".join(
        f'<div class="stat"><dt>{safe(label)}</dt><dd>{safe(value)}</dd>{_below(below)}</div>'
        for label, value, below in items
    )
    return Html(f'<dl class="stats" style="--columns:{columns or len(items)}">{cells}</dl>')


def _below(text: object) -> str:
    return f'<dd class="below">{safe(text)}</dd>' if text else ""


def facts(items: Sequence[tuple[object, object]]) -> Html:
    """Label and value, one pair a line."""
    rows = "".join(f"<dt>{safe(label)}</dt><dd>{safe(value)}</dd>" for label, value in items)
    return Html(f'<dl class="facts">{rows}</dl>')


def meter(label: str, used: float, total: float) -> Html:
    """Bytes in use of bytes there are."""
    name, gb_used, gb_total = safe(label), f"{used / 1e9:.1f}", f"{total / 1e9:.1f}"
    bounds = f'aria-valuemin="0" aria-valuemax="{gb_total}" aria-valuenow="{gb_used}" aria-label="{name} in use, GB"'
    return Html(
        f'<div class="meter"><span>{name}</span><div class="track" role="meter" {bounds}>'
        f'<b style="width:{100 * used / total:.0f}%"></b></div><span class="num">{gb_used} / {gb_total} GB</span></div>'
    )


def progress(share: float, label: str, kind: str = "") -> Html:
    bounds = f'aria-label="{safe(label)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{round(100 * share)}"'
    return Html(
        f'<div class="track progress {kind}" role="progressbar" {bounds}><b style="width:{100 * share:.1f}%"></b></div>'
    )


def steps(names: Sequence[str], current: int, kind: str = "") -> Html:
    """Phases of a job: done, current, to come."""

    def step(k: int, name: str) -> str:
        css = "done" if k < current else f"now {kind}" if k == current else "next"
        return f'<li class="{css}"{" aria-current=step" if k == current else ""}>{safe(name)}</li>'

    return Html(f'<ol class="steps">{"".join(step(k, name) for k, name in enumerate(names))}</ol>')


def banner(kind: str, what: object, why: object, todo: object, *, code: str = "", details: str = "") -> Html:
    """A message that stays until its cause is gone: what happened, why, what to do, its code, the rest folded."""
    parts = [tag("strong", what), tag("p", why) if why else "", tag("p", todo, "todo") if todo else ""]
    if details:
        fold = f'<summary>Details <code>{safe(code)}</code></summary><pre tabindex="0">{safe(details)}</pre>'
        parts.append(Html(f"<details>{fold}</details>"))
    elif code:
        parts.append(Html(f'<p class="code"><code>{safe(code)}</code></p>'))
    role = "alert" if kind == "error" else "note"
    return Html(f'<div class="banner banner-{kind}" role="{role}">{joined(parts)}</div>')


def problem(error: QuipError, what: str = "") -> Html:
    """The banner of an error; ``what`` says what could not be done, else the error's own sentence does."""
    if what:
        return banner("error", what, error.message, error.hint, code=error.code, details=error.details)
    return banner("error", error.message, "", error.hint, code=error.code, details=error.details)


def empty(title: str, text: str, *actions: Html) -> Html:
    """A screen with nothing to show says what would fill it, and offers the way there."""
    return Html(f'<div class="empty">{tag("strong", title)}{tag("p", text)}<div>{joined(actions)}</div></div>')


def legend(*items: tuple[str, str]) -> Html:
    """(mark, text); marks are drawn in style.css: dot, diamond, line, grey, error."""
    return Html("".join(f'<span class="key"><i class="mark mark-{m}"></i>{safe(text)}</span>' for m, text in items))


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]], label: str, css: str = "") -> Html:
    """``columns``: (title, "text" | "num" | "act"). On a phone a table of class ``stack`` becomes a list of cards."""
    head = "".join(f'<th scope="col" class="{kind}">{safe(title)}</th>' for title, kind in columns)
    names = css == "stack"  # cards repeat the column's title in each cell
    body = "".join(
        f"<tr>{''.join(_cell(*column, cell, names) for column, cell in zip(columns, row, strict=True))}</tr>"
        for row in rows
    )
    frame = f'class="table-wrap {css}" role="region" tabindex="0" aria-label="{safe(label)}"'
    return Html(f"<div {frame}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def _cell(title: str, kind: str, content: object, named: bool) -> str:
    label = f' data-label="{safe(title)}"' if named else ""
    return f"<td{'' if kind == 'text' else f' class={kind}'}{label}>{safe(content)}</td>"


def button(text: str, action: str, kind: str = "") -> Html:
    """A button inside markup; ``ACTIONS`` turns its click into a Gradio event that carries ``action``."""
    return Html(f'<button type="button" class="mini {kind}" data-action="{safe(action)}">{safe(text)}</button>')


def keyed(text: object, key: float | None) -> Html:
    """A cell that is sorted by a number and not by its text; None comes last."""
    return Html(f'<span data-key="{"" if key is None else f"{key:.9g}"}">{safe(text)}</span>')


SORTED = Path(__file__).with_name("table.js").read_text(encoding="utf-8")
ACTIONS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {action: button.dataset.action});
});
"""

# For an event's js: save a file of this (name, text); an empty name saves nothing.
DOWNLOAD = """([name, text]) => {
  if (!name) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/plain'}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


def follow(event: gr.EventData) -> Any:
    """The tab that is the action of a button: for an output that is the page's ``gr.Tabs``."""
    return gr.Tabs(selected=event._data["action"])


# Gradio's own components with the defaults of this app: its prose styles (margins, black table borders) stay out of
# our markup, and an input that no event reads yet would be drawn disabled.
html = partial(gr.HTML, apply_default_css=False)
Checkbox, Dropdown, Number, Radio, Slider = (
    partial(kind, interactive=True) for kind in (gr.Checkbox, gr.Dropdown, gr.Number, gr.Radio, gr.Slider)
)
Line = partial(gr.Textbox, value="", interactive=True, lines=1, max_lines=1)
# How every event of ours is bound; LATEST: where a second click during the first must not be lost. Progress on nothing:
# Gradio would mark every output as pending, at a cost for each, and one that is hidden meanwhile would count frames for
# ever.
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
LATEST: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
# Events that come together are called together, the first with what the fields held before the second, and answered in
# any order: a handler of several changes is called behind this, when all fields hold what they were given.
SETTLED = "() => new Promise(done => setTimeout(done, 50))"


def edits(field: Any) -> list[Any]:
    """The events after which a field may hold something else. A line of text keeps what is pasted to itself."""
    return [field.input, field.blur, field.submit] if isinstance(field, gr.Textbox) else [field.input]


def announcer() -> gr.HTML:
    """A live region for screen readers. The element stays and only its text changes, so each phase is spoken once."""
    return live(
        html_template='<div role="status" aria-live="polite"></div>',
        elem_classes="sr-only",
        js_on_load="watch('value', () => { element.firstElementChild.textContent = props.value; });",
    )
