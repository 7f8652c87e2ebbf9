"""Models: the first screen. One obvious click for a newcomer, the models of this computer below it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from app import widgets as w
from app.fmt import UNKNOWN, count, plural, size
from app.hero import hero
from app.library import Entry, model_folders
from app.page import Choices, Moment, Page, go
from app.state import explain
from app.studio import Studio
from quip_engine.probe import ModelFacts
from quip_engine.probe.folder import local_folder

LEDE = (
    "<h1>Shrink a language model to 2 bits per weight, and see what is lost.</h1>"
    '<p class="lede">Watch every layer as it shrinks, then talk to the small model beside the original.</p>'
    '<ol class="path"><li>Choose a model</li><li>Quantize</li><li>Compare</li></ol>'
)
COLUMNS = [("Model", "text"), ("Architecture", "text"), ("Blocks", "num"), ("Size", "num")]
COLUMNS += [("Can be quantized", "text"), ("", "act")]


def build(page: Page) -> dict[str, Any]:
    studio = page.studio
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
    with gr.Column(elem_classes="card"):
        with gr.Row(elem_classes="bar"):
            w.html(w.heading("On this computer", "The demo, the cache of the hub, and the folders you have added."))
            rescan = gr.Button("Look again", size="sm")
        parts["shelf"] = w.html(js_on_load=w.ACTIONS)
    with gr.Column(elem_classes="card"):
        text = "A Hugging Face name such as Qwen/Qwen3-0.6B, or a folder on this computer."
        w.html(w.heading("Another model", text, 3))
        with gr.Row(elem_classes="bar"):
            typed = w.Line(
                placeholder="name or folder",
                show_label=False,
                container=False,
                label="Model",
                elem_id="other-model",
            )
            check = gr.Button("Check", size="md", elem_id="check")
        parts["verdict"] = w.html(visible=False, elem_id="verdict")
        parts["use"] = gr.Button("Use this model", variant="primary", size="md", visible=False, scale=0, elem_id="use")
    parts["checked"] = gr.State("")
    outputs = [parts["verdict"], parts["use"], parts["checked"], parts["shelf"]]
    gr.on([check.click, typed.submit], partial(_check, studio), typed, outputs, **w.LATEST)
    rescan.click(lambda: shelf(studio.library.entries()), None, parts["shelf"], **w.PRIVATE)
    return parts


def show(moment: Moment) -> dict[str, Any]:
    return {"demo": gr.update(interactive=not moment.busy)}


def connect(page: Page) -> None:
    """The ways to Quantize, and the demo's straight to the Monitor."""
    parts, chosen = page.built["Models"], [page.model, page.tabs]

    def use(event: gr.EventData) -> tuple[str, Any]:
        return event._data["action"].removeprefix("use:"), go("Quantize")

    parts["shelf"].click(use, None, chosen, **w.PRIVATE)
    parts["use"].click(lambda path: (path, go("Quantize")), parts["checked"], chosen, **w.PRIVATE)
    page.blocks.load(lambda: shelf(page.studio.library.entries()), None, parts["shelf"], **w.PRIVATE)
    outputs = [page.choices, page.tabs, parts["problem"], parts["demo"]]
    parts["demo"].click(partial(_demo, page.studio, parts["demo"].value), None, outputs, **w.PRIVATE)


def _demo(studio: Studio, label: str) -> Iterator[tuple[Any, Any, Any, Any]]:
    yield gr.skip(), gr.skip(), gr.update(visible=False), gr.update(value="Starting…", interactive=False)
    try:
        studio.start(studio.demo_job())
    except Exception as error:
        banner = gr.update(value=w.problem(explain(error)), visible=True)
        yield gr.skip(), gr.skip(), banner, gr.update(value=label, interactive=True)
        return
    yield Choices(), go("Monitor"), gr.skip(), gr.update(value=label, interactive=False)


def shelf(entries: list[Entry]) -> w.Html:
    rows = []
    for entry in entries:
        name = w.joined([entry.name, w.Html(f' <span class="muted">{w.safe(entry.origin)}</span>')])
        verdict = w.pill("yes", "yes") if entry.supported else w.pill("check to see why not", "tight")
        action = w.button("Use", f"use:{entry.model}") if entry.supported else ""
        rows.append([name, entry.family, entry.blocks or UNKNOWN, size(entry.bytes), verdict, action])
    return w.table(COLUMNS, rows, "Models on this computer", "stack")


def facts_line(facts: ModelFacts) -> str:
    """A model in one line."""
    family = facts.architecture.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    layers = plural(len(facts.linear_layers), "linear layer")
    return " · ".join(
        [family, plural(facts.blocks, "block"), layers, f"{count(facts.parameters)} parameters", size(facts.bytes)]
    )


def _check(studio: Studio, name: str) -> Iterator[tuple[Any, Any, str, Any]]:
    """Facts of a typed model, or what is wrong with it. Folders that hold models are remembered."""
    hidden, same = gr.update(visible=False), gr.skip()
    yield gr.update(value=_checking(name, studio.offline), visible=True), hidden, "", same
    try:
        folder = local_folder(name)
        inside = model_folders(folder) if folder else []
        if folder and inside and inside != [folder]:
            studio.library.add(folder)
            verdict = w.banner("info", f"{plural(len(inside), 'model')} found in {folder}.", "See the list above.", "")
            yield gr.update(value=verdict, visible=True), hidden, "", shelf(studio.library.entries())
            return
        facts = studio.facts(name)
    except Exception as error:
        yield gr.update(value=w.problem(explain(error)), visible=True), hidden, "", same
        return
    if folder:
        studio.library.add(folder)
    model = str(folder) if folder else facts.name
    yield (
        gr.update(value=_verdict(facts), visible=True),
        gr.update(visible=True),
        model,
        shelf(studio.library.entries()),
    )


def _checking(name: str, offline: bool) -> w.Html:
    local = offline or name.strip()[:1] in ("", "/", ".", "~") or "/" not in name
    more = "" if local else "A model of the hub that is not here yet is downloaded first; this can take minutes."
    return w.banner("info", f"Checking {name.strip() or 'the model'}…", more, "")


def _verdict(facts: ModelFacts) -> w.Html:
    layers = plural(len(facts.linear_layers), "linear layer")
    rows = [
        ("Architecture", facts.architecture),
        ("Parameters", count(facts.parameters)),
        (
            "Decoder",
            f"{plural(facts.blocks, 'block')} of width {facts.hidden}, {layers}",
        ),
        ("Size on disk", f"{size(facts.bytes)} in {facts.dtype}"),
        ("Context", f"{facts.context} tokens" if facts.context else UNKNOWN),
        ("Vocabulary", count(facts.vocabulary) + (", head tied to it" if facts.tied else "")),
        ("Chat template", "yes" if facts.chat_template else "no: it continues text"),
        ("Licence", facts.licence or "not stated"),
    ]
    rows += [("Note", message) for code, message in facts.warnings if code != "NO_TEMPLATE"]
    title = w.joined([facts.name, " ", w.pill("can be quantized", "yes")])
    return w.joined([w.Html('<div class="verdict">'), w.heading(title, "", 3), w.facts(rows), w.Html("</div>")])
