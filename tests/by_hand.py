"""What a person does, in this process: a command of the command line, a button of the real page.

Both do all that they do for a person, up to the last line: ``command`` parses arguments and prints JSON, ``Page``
presses a button with what its fields hold.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app.main import build
from app.studio import Studio
from quip_engine.cli import main


class Said(NamedTuple):
    """What a person was told: an error's code and next step (none: notices), and all of the text."""

    code: str
    hint: str
    text: str


class Page:
    """The studio without a browser: its buttons, by ``elem_id``."""

    def __init__(self, home: Path) -> None:
        self.studio = Studio(home)
        self.blocks = build(self.studio)

    def press(self, button: str, **values: Any) -> str:
        """Press it; the text of all that it shows. ``values``: of fields by ``elem_id`` or label; others stay."""
        function = next(
            f
            for f in self.blocks.fns.values()
            if f.fn and any(getattr(self.blocks.blocks[i], "elem_id", None) == button for i, _ in f.targets if i)
        )
        given = [_value(block, values) for block in function.inputs]
        answer = function.fn(*given)
        frames = list(answer) if isinstance(answer, Iterator) else [answer]
        return " ".join(texts(frames))


def _value(block: Any, values: dict[str, Any]) -> Any:
    names = (getattr(block, "elem_id", None), getattr(block, "label", None), type(block).__name__)
    return next((values[name] for name in names if name in values), getattr(block, "value", None))


def texts(shown: Any) -> Iterator[str]:
    if isinstance(shown, str):
        yield html.unescape(re.sub(r"<[^>]*>", " ", shown))
    elif isinstance(shown, dict):
        yield from texts(list(shown.values()))
    elif isinstance(shown, list | tuple):
        for part in shown:
            yield from texts(part)


def command(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, JSON and words of a command."""
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue() or "{}"), told.getvalue()


def heard(*arguments: str) -> Said:
    """What the command line tells: an error, or all that it says on its way."""
    status, result, told = command(*arguments)
    if not status:
        return Said("", "", told)
    assert status == 2 and result["message"] in told and result["hint"] in told and result["error"] in told
    return Said(result["error"], result["hint"], told)
