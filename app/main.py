"""The page: the strip, the tabs, and the one clock that keeps them true."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from app import api, evaluation_views, live, live_plot, theme, views
from app import widgets as w
from app.calls import CarefulBlocks
from app.guard import BODY
from app.library import DEMO
from app.machine import memory
from app.page import Choices, Moment, Page, Tab, go
from app.studio import Studio
from app.tabs import compare, evaluate, inspect, models, monitor, quantize, runs, settings
from app.visitors import Visitor, Visitors

HERE = Path(__file__).parent
BRAND = (
    '<div class="brand"><svg viewBox="0 0 22 22" fill="currentColor" aria-hidden="true"><circle cx="5" cy="5" r="4"/>'
    '<circle cx="17" cy="5" r="2"/><circle cx="5" cy="17" r="2"/><circle cx="17" cy="17" r="4"/></svg>'
    "<span>QuIP Studio</span></div>"
)
TABS: dict[str, Tab] = {
    **{"Models": models, "Quantize": quantize, "Monitor": monitor},
    **{"Inspect": inspect, "Evaluate": evaluate, "Compare": compare, "Runs": runs, "Settings": settings},
}
QUIET = {**w.PRIVATE, "queue": False}


def build(studio: Studio) -> gr.Blocks:
    """The whole page over one studio."""
    with CarefulBlocks(title="QuIP Studio", fill_width=True, analytics_enabled=False) as blocks:
        page = Page(studio, blocks, gr.State(str(DEMO)), gr.State(Choices()), gr.State(None), _strip())
        # style.css turns the wrap into a scroll; the default menu would hide half the tabs on a phone
        with gr.Tabs(overflow_behavior="wrap") as page.tabs:
            for name, tab in TABS.items():
                with gr.Tab(name, id=name, elem_id=f"tab-{name.lower()}"):
                    page.built[name] = tab.build(page)
        for tab in TABS.values():
            if connect := getattr(tab, "connect", None):
                connect(page)
        _keep_true(page)
        _steer(page)
        api.add(studio)
    return blocks


def launch_options() -> dict[str, Any]:
    """What the page needs from the server: look, scripts, and everything that would reach outside turned off."""
    look = f"{theme.window_colour()}<style>{theme.css_tokens()}</style>{theme.SCRIPT}"
    head = f"{look}{live.head()}{live_plot.head()}{compare.ESCAPE_STOPS}"
    return {
        "theme": theme.theme(),
        "css": (HERE / "style.css").read_text(encoding="utf-8"),
        "head": head,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": True,  # can be installed: a window of its own, with our mark
        "favicon_path": str(HERE / "icon.svg"),
        "enable_monitoring": False,
        "allowed_paths": [],
        "show_error": True,
        "max_file_size": BODY,
    }


def _strip() -> dict[str, Any]:
    parts: dict[str, Any] = {"say": w.announcer()}
    with gr.Row(elem_id="strip"):
        w.html(BRAND)
        parts["job"] = w.live(elem_id="job")
        parts["pause"] = gr.Button("Pause", size="sm", visible=False, elem_id="strip-pause")
        parts["open"] = gr.Button("Open", size="sm", visible=False, elem_id="strip-open")
        parts["memory"] = w.live(elem_id="memory")
    return parts


def _keep_true(page: Page) -> None:
    """The clock: it tells live parts what they show, and has Gradio set the others when they are to change."""
    parts, visitors = page.parts(), Visitors()
    for name, part in parts.items():
        if live.is_live(part):
            live.join(part, name)

    def seen(visitor: Visitor) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values of live parts and of the others."""
        values = screen(page.studio, visitor.choices, time.monotonic())
        told = {name: value for name, value in values.items() if live.is_live(parts[name])}
        return told, {name: value for name, value in values.items() if name not in told}

    def look(asked: dict[str, Any]) -> dict[str, Any]:
        visitor = visitors.of(str(asked["page"]))
        told, others = seen(visitor)
        near = {name: value for name, value in told.items() if name.startswith(("strip ", f"{asked['tab']} "))}
        return {**visitor.answer(asked["number"], near), "ring": bool(visitor.missing(others))}

    def ring(choices: Choices, request: gr.Request) -> dict[Any, Any]:
        visitor = visitors.of(str(request.session_hash))
        visitor.choices = choices
        given = visitor.give(seen(visitor)[1])
        return {clock: f"{request.session_hash} {time.monotonic_ns()}", **{parts[n]: v for n, v in given.items()}}

    clock = live.clock(look)
    outputs = [clock, *(part for part in parts.values() if not live.is_live(part))]
    for event in (clock.ring, page.choices.change, page.blocks.load):
        event(ring, page.choices, outputs, **QUIET)


def first_word(studio: Studio) -> str:
    """What is at work, as markup, for a page that is not there yet."""
    with studio.follower.lock:
        return _job(studio, time.monotonic())


def _job(studio: Studio, now: float) -> w.Html:
    follower = studio.follower
    return evaluation_views.strip(studio.evaluations.view, now) or views.strip(follower.view, now, follower.since)


def screen(studio: Studio, choices: Choices, now: float) -> dict[str, Any]:
    """Everything that follows from the runs and this machine, by tab and part."""
    ram = memory()
    with studio.follower.lock:
        newest = studio.follower.view
        view, previous = studio.follower.chosen(choices.run)
        moment = Moment(studio, choices, view, previous, newest, now)
        since, alive = studio.follower.since, moment.busy
        groups: dict[str, dict[str, Any]] = {
            "strip": {
                "say": evaluation_views.spoken(studio.evaluations.view) or views.spoken(newest),
                "job": _job(studio, now),
                "pause": gr.update(visible=alive, interactive=alive and newest.run.status != "stopping"),  # type: ignore[union-attr]
                "open": gr.update(visible=newest is not None and views.is_news(newest, since)),
                "memory": w.meter(ram.label, ram.used, ram.total),
            }
        }
        for name, tab in TABS.items():
            if show := getattr(tab, "show", None):
                groups[name] = show(moment)
    return {f"{group} {name}": value for group, values in groups.items() for name, value in values.items()}


def _steer(page: Page) -> None:
    """The buttons of the strip."""
    latest = {"fn": lambda: (Choices(), go("Monitor")), "inputs": None, "outputs": [page.choices, page.tabs]}
    page.strip["open"].click(**latest, **w.PRIVATE)
    page.strip["pause"].click(page.studio.pause, None, None, **w.PRIVATE)
