"""The clock of a page: one question a second, one answer with what has changed since the last one.

    page --(who, number of the last answer, tab)--> look --(number, changes of live parts, ring)--> live.js

At each of its events Gradio goes through every component that was ever an output, so what changes by itself goes past
it. A *live* part (``w.live``, ``live_plot(live=True)``) holds markup or a figure; it travels as the difference to what
this page was told before, and only while its tab is seen. All other components are set by Gradio, in an event that the
page rings for when one of them is to change, which is rare.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app.calls import answering

SCRIPT = Path(__file__).with_name("live.js").read_text(encoding="utf-8")
MARKUP = "const fill = () => quip.markup(element, props.value);\nwatch('value', fill);\nfill();\n"


def live(js_on_load: str = "", **kwargs: Any) -> gr.HTML:
    """A part whose markup, or figure where it has a template, arrives by the clock under the name given to ``join``.

    In ``js_on_load``, ``props.value`` and ``watch('value', ...)`` are those of the clock.
    """
    template = kwargs.pop("html_template", "")
    script = js_on_load if template else MARKUP + js_on_load
    return gr.HTML("", html_template=template, js_on_load=script, apply_default_css=False, live=True, **kwargs)


def head() -> str:
    """The script every page needs."""
    return f"<script>{SCRIPT}</script>"


def is_live(part: Any) -> bool:
    return isinstance(part, gr.HTML) and "live" in part.props


def join(part: gr.HTML, name: str) -> None:
    """From now on the part shows what is told under this name."""
    part.js_on_load = f"{{\nconst {{props, watch}} = quip.part({json.dumps(name)});\n{part.js_on_load}\n}}"


def clock(look: Callable[[dict[str, Any]], dict[str, Any]]) -> gr.HTML:
    """The element that asks. Its value is who the page is and, behind a blank, anything: a new one asks at once.

    Its event ``ring`` wants the components set that Gradio sets.
    """
    script = "quip.start(server, trigger, props, watch);  // triggers 'ring'"
    return gr.HTML("", html_template="", js_on_load=script, server_functions=[answering(look)], elem_classes="sr-only")
