"""Models: the first screen. One obvious click for a newcomer; below it models to fetch, and those of this computer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from app import library_views as views
from app import widgets as w
from app.fmt import count, plural, size
from app.hero import hero
from app.library import DEMO
from app.model_desk import HIDDEN, check, search
from app.page import Choices, Moment, Page, go
from app.state import explain
from app.studio import Studio
from app.suggestions import total_memory
from quip_engine.errors import fail
from quip_engine.probe import ModelFacts

LEDE = (
    "<h1>Shrink a language model to 2 bits per weight, and see what is lost.</h1>"
    '<p class="lede">Watch every layer as it shrinks, then talk to the small model beside the original.</p>'
    '<ol class="path"><li>Choose a model</li><li>Quantize</li><li>Compare</li></ol>'
)
SUGGESTED, HERE = "Suggested", "On this computer"


def build(page: Page) -> dict[str, Any]:
    parts: dict[str, Any] = {"problem": w.html(visible=False)}
    with gr.Row(elem_id="hero", elem_classes="card wide"):
        with gr.Column(scale=6):
            w.html(LEDE)
            with gr.Row(elem_classes="bar"):
                parts["demo"] = gr.Button(
                    "Try the built-in demo", variant="primary", size="lg", scale=0, elem_id="demo"
                )
                w.html(w.note(w.Html("A small model, already here.<br>About a minute, no download, no GPU.")))
        with gr.Column(scale=5):
            w.html(hero())
    with gr.Column(elem_classes="card", visible=False) as parts["downloads"]:
        w.html(w.heading("Downloads", level=2))
        parts["going"] = w.live(w.ACTIONS, elem_id="downloads")
    _lists(page.studio, parts)
    _another(page.studio, parts)
    return parts


def _lists(studio: Studio, parts: dict[str, Any]) -> None:
    """Two lists on one card: what could be fetched, and what is here."""
    with gr.Column(elem_classes="card", elem_id="shelf"):
        with gr.Row(elem_classes="bar"):
            parts["title"] = w.html(_title(here=False))
            parts["which"] = w.Radio(
                [SUGGESTED, HERE],
                value=SUGGESTED,
                label="Which models",
                show_label=False,
                container=False,
                elem_classes="segmented",
                scale=0,
                elem_id="which",
            )
            parts["rescan"] = gr.Button("Look again", size="sm", visible=False)
        parts["suggested"] = w.live(w.ACTIONS + w.SORTED)
        parts["shelf"] = w.live(w.ACTIONS + w.SORTED, visible=False)
    outputs = [parts[name] for name in ("title", "suggested", "shelf", "rescan")]
    parts["which"].change(_switch, parts["which"], outputs, **w.LATEST)
    parts["rescan"].click(studio.library.forget, None, None, **w.PRIVATE)


def _another(studio: Studio, parts: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card"):
        text = "A Hugging Face name such as Qwen/Qwen3-0.6B, a folder on this computer, or words to search the hub for."
        w.html(w.heading("Another model", text, 3))
        with gr.Row(elem_classes="bar"):
            parts["typed"] = typed = w.Line(
                placeholder="name, folder or words",
                show_label=False,
                container=False,
                label="Model",
                elem_id="other-model",
            )
            button = gr.Button("Check", size="md", elem_id="check")
            parts["search"] = gr.Button("Search the hub", size="md", elem_id="search", interactive=not studio.offline)
        parts["offline"] = w.html(visible=False)
        parts["verdict"] = w.html(visible=False, elem_id="verdict")
        parts["use"] = gr.Button("Use this model", variant="primary", size="md", visible=False, scale=0, elem_id="use")
        parts["get"] = gr.Button("Download", variant="primary", size="md", visible=False, scale=0, elem_id="get")
        parts["compare"] = gr.Button("Open in Compare", size="md", visible=False, scale=0, elem_id="to-compare")
        parts["results"] = w.html(js_on_load=w.ACTIONS + w.SORTED, visible=False, elem_id="results")
    parts["checked"] = gr.State("")
    outputs = _answered(parts)
    gr.on([button.click, typed.submit], partial(check, studio), typed, outputs, **w.LATEST)
    parts["search"].click(partial(search, studio), typed, [parts["results"], parts["verdict"]], **w.LATEST)


def _answered(parts: dict[str, Any]) -> list[Any]:
    """What ``check`` gives."""
    return [parts[name] for name in ("verdict", "use", "get", "compare", "checked")]


def show(moment: Moment) -> dict[str, Any]:
    studio = moment.studio
    going, entries = studio.downloads.all(), studio.library.seen()
    found = studio.suggestions.all()
    here = {entry.model for entry in entries}
    busy = {s.model.name for s in found or []} if studio.offline else {d.name for d in going if d.alive}
    offline = w.note(views.FORCED if studio.never_online else views.OFFLINE)
    return {
        "demo": gr.update(interactive=not moment.busy),
        "downloads": gr.update(visible=bool(going)),
        "going": views.downloads(going),
        "which": gr.update(choices=[SUGGESTED, (f"{HERE} ({len(entries)})", HERE)]),
        "suggested": w.joined([offline if studio.offline else "", views.suggested(found, total_memory(), here, busy)]),
        "shelf": views.shelf(entries),
        "search": gr.update(interactive=not studio.offline),
        "offline": gr.update(value=offline, visible=studio.offline),
    }


def connect(page: Page) -> None:
    """The ways to Quantize and Compare, and the demo's straight to the Monitor."""
    parts, studio, beside = page.built["Models"], page.studio, page.built["Compare"]
    named = {
        "model": page.model,
        "tabs": page.tabs,
        "problem": parts["problem"],
    }
    named |= {name: beside[name] for name in ("nothing", "body", "left", "right")}

    def act(event: gr.EventData) -> dict[Any, Any]:
        return do(event._data["action"])

    def do(action: str) -> dict[Any, Any]:
        return {named[name]: value for name, value in _act(studio, action).items()}

    outputs = list(named.values())
    for name in ("shelf", "suggested", "going"):
        parts[name].click(act, None, outputs, **w.PRIVATE)
    for name in ("use", "compare", "get"):
        parts[name].click(lambda model, what=name: do(f"{what}:{model}"), parts["checked"], outputs, **w.PRIVATE)
    looked = parts["results"].click(_looked_at, None, parts["typed"], **w.PRIVATE)
    looked.then(partial(check, studio), parts["typed"], _answered(parts), **w.PRIVATE)
    page.blocks.load(partial(_first, studio), None, parts["which"], **w.PRIVATE)
    outputs = [page.choices, page.tabs, parts["problem"], parts["demo"]]
    parts["demo"].click(partial(_demo, studio, parts["demo"].value), None, outputs, **w.PRIVATE)


def _first(studio: Studio) -> str:
    """A newcomer sees what could be fetched; who has models sees them."""
    return HERE if len(studio.library.entries()) > 1 or studio.offline else SUGGESTED


def _switch(which: str) -> tuple[Any, Any, Any, Any]:
    here = which == HERE
    return _title(here=here), gr.update(visible=not here), gr.update(visible=here), gr.update(visible=here)


def _title(*, here: bool) -> w.Html:
    if here:
        return w.heading("On this computer", "The demo, the cache of the hub, and the folders you have added.")
    text = f"For {size(total_memory())} of memory. Times are estimates for QuIP# at 2 bits, within a factor of two."
    return w.heading("Suggested for this computer", text)


def _act(studio: Studio, action: str) -> dict[str, Any]:
    """What a button of one of the lists changes, by name."""
    action, _, name = action.partition(":")
    match action:
        case "use":
            return {"model": name, "tabs": go("Quantize")}
        case "compare":
            first = {} if studio.follower.finished() else {"left": str(DEMO)}
            opened = {"nothing": HIDDEN, "body": gr.update(visible=True)}
            return {"tabs": go("Compare"), "right": name, **opened, **first}
        case "cancel":
            studio.downloads.cancel(name)
        case "remove":
            studio.downloads.remove(name)
        case _:
            return _start(studio, name)
    return {"problem": HIDDEN}


def _start(studio: Studio, name: str) -> dict[str, Any]:
    """Begin a download, or go on with it. The list of downloads has one writer, the page's clock: a second answer
    that was given before the download failed, and came after, would stay.
    """
    try:
        if studio.offline:
            fail("HUB_OFFLINE", name=name)
        studio.downloads.start(name)
    except Exception as error:
        return {"problem": gr.update(value=w.problem(explain(error)), visible=True)}
    return {"problem": HIDDEN}


def _demo(studio: Studio, label: str) -> Iterator[tuple[Any, Any, Any, Any]]:
    yield gr.skip(), gr.skip(), HIDDEN, gr.update(value="Starting…", interactive=False)
    try:
        studio.start(studio.demo_job())
    except Exception as error:
        banner = gr.update(value=w.problem(explain(error)), visible=True)
        yield gr.skip(), gr.skip(), banner, gr.update(value=label, interactive=True)
        return
    yield Choices(), go("Monitor"), gr.skip(), gr.update(value=label, interactive=False)


def _looked_at(event: gr.EventData) -> str:
    return str(event._data["action"].removeprefix("check:"))


def facts_line(facts: ModelFacts) -> str:
    """A model in one line."""
    family = facts.architecture.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    layers = plural(len(facts.linear_layers), "linear layer")
    return " · ".join(
        [family, plural(facts.blocks, "block"), layers, f"{count(facts.parameters)} parameters", size(facts.bytes)]
    )
