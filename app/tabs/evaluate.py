"""Evaluate: what the small model costs in perplexity, where along the text, and in which layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from app import evaluation_views as views
from app import results as told
from app import widgets as w
from app.live_plot import live_plot
from app.measure import BUNDLED, ITSELF, OWN, Desk
from app.page import Choices, Moment, Page
from app.state import explain
from app.studio import Studio
from quip_engine import tasks

ALL_WINDOWS = "0: all that the text fills."


def build(page: Page) -> dict[str, Any]:
    """The form, what works now, the verdict with its plots, and the table of all results."""
    parts: dict[str, Any] = {}
    desk = Desk(page.studio)
    with gr.Column(elem_classes="card", elem_id="measure"):
        text = "Perplexity on a text, and how far the predictions of the next token move from the original's."
        w.html(w.heading("Measure a model", text))
        form = _form(desk, parts)
    parts["trouble"] = w.html(visible=False)
    with gr.Column(elem_classes="card", visible=False, elem_id="evaluating") as parts["working"]:
        parts["live"] = w.live()
        parts["stop"] = gr.Button("Stop evaluation", variant="stop", size="md", scale=0, elem_id="stop-evaluation")
    with gr.Column(visible=False) as parts["converging"]:
        legend = w.legend(("line", "this model"), ("orange", "original"))
        note = "It settles as windows are scored; the bands are standard errors."
        parts["convergence"] = live_plot(
            "Perplexity so far", note, legend=legend, height=260, clocked=True, elem_id="plot-convergence"
        )
    with gr.Column(visible=False) as parts["done"]:
        with gr.Column(elem_classes="card"):
            parts["outcome"] = w.live(elem_id="outcome")
            parts["again"] = gr.Button("Measure again", size="sm", scale=0, elem_id="measure-again")
        _plots(parts)
        with gr.Column(elem_classes="card", visible=False) as parts["worst_card"]:
            text = "Where both predictions are furthest apart, with the chance that each gives to its own choice."
            w.html(w.heading("The worst tokens", text, 3))
            parts["worst"] = w.live(elem_id="worst-tokens")
    parts["nothing"] = w.html(views.empty())
    with gr.Column(elem_classes="card", visible=False) as parts["results"]:
        with gr.Row(elem_classes="bar"):
            text = "Perplexities compare only on the same text, cut the same way."
            w.html(w.heading("Results", text, 3))
            parts["csv"] = gr.Button("Export CSV", size="sm", elem_classes="quiet")
            parts["json"] = gr.Button("Export JSON", size="sm", elem_classes="quiet")
        parts["table"] = w.live(w.ACTIONS + w.SORTED, elem_id="results-table")
    _wire(page, desk, form, parts)
    return parts


def _form(desk: Desk, parts: dict[str, Any]) -> list[Any]:
    """The fields in the order in which the desk reads them."""
    models, chosen = desk.models(), desk.first_choice()
    with gr.Row(elem_classes="fields"):
        parts["model"] = w.Dropdown(
            models, value=chosen, label="Model", allow_custom_value=True, min_width=220, scale=3, elem_id="eval-model",
            info="A finished run, an original, or the path of a folder.",
        )  # fmt: skip
        parts["against"] = w.Dropdown(
            desk.originals(), value=ITSELF, label="Against", allow_custom_value=True, min_width=200, scale=3,
            info="What its predictions are compared with.",
        )  # fmt: skip
        source = w.Dropdown(
            [("Bundled text", BUNDLED), ("Own file", OWN)], value=BUNDLED, label="Text", min_width=150, scale=2,
            info="UTF-8 text, or JSON lines.",
        )  # fmt: skip
    own = w.Line(label="File", placeholder="/path/to/text.txt", visible=False, elem_id="eval-file")
    with gr.Row(elem_classes="fields"):
        seqlen = w.Number(
            desk.context(chosen),
            label="Context",
            info="Tokens of a window.",
            precision=0,
            min_width=120,
            elem_id="eval-seqlen",
        )
        windows = w.Number(0, label="Windows", info=ALL_WINDOWS, precision=0, min_width=120, elem_id="eval-windows")
        layers = w.Checkbox(
            True, label="Each layer alone", info="Finds the layers that cost most.", elem_id="eval-layers"
        )
    zero_shot = _task_fields()
    parts["price"] = w.html(elem_id="eval-price")
    parts["measure"] = gr.Button("Measure", variant="primary", size="lg", scale=0, elem_id="measure-button")
    parts["seqlen"], parts["own"], parts["source"] = seqlen, own, source
    return [parts["model"], parts["against"], source, own, seqlen, windows, layers, *zero_shot]


def _task_fields() -> list[Any]:
    """Tasks of lm_eval and how many questions of each, or how to get them."""
    if tasks.available():
        chosen = w.Dropdown(list(tasks.TASKS), value=[], multiselect=True, label="Zero-shot tasks", info="By lm_eval.")
        return [chosen, w.Number(100, label="Questions of each task", precision=0)]
    w.html(w.note(w.joined(["Zero-shot tasks come with an extra package: ", w.tag("code", "pip install lm_eval")])))
    return [gr.State([]), gr.State(100)]


def _plots(parts: dict[str, Any]) -> None:
    with gr.Row(elem_classes="wide one-one"):
        with gr.Column(min_width=320):
            parts["size"] = live_plot(
                "Quality against size",
                "Models measured on the same text; down and left is better. Bars are standard errors.",
                legend=w.legend(("diamond", "original"), ("dot", "quantized"), ("dots", "beaten by nothing")),
                height=320,
                clocked=True,
                elem_id="plot-size",
            )
        with gr.Column(min_width=320) as parts["along_card"]:
            note = "KL to the original by the number of tokens read before; the band is its standard error."
            parts["along"] = live_plot("Along the text", note, height=343, clocked=True, elem_id="plot-along")
    with gr.Row(elem_classes="wide one-one"):
        with gr.Column(min_width=320) as parts["blocks_card"]:
            note = "How far hidden states are from the original's, relative to their size; errors add up."
            parts["blocks"] = live_plot("Block by block", note, height=300, clocked=True, elem_id="plot-blocks")
        with gr.Column(min_width=320) as parts["layers_card"]:
            note = "KL that one quantized layer causes in the original, log scale."
            parts["layers"] = live_plot("Each layer alone", note, height=300, clocked=True, elem_id="plot-layers")


def _wire(page: Page, desk: Desk, form: list[Any], parts: dict[str, Any]) -> None:
    priced = {"fn": desk.price, "inputs": form, "outputs": parts["price"], **w.LATEST}
    parts["model"].change(desk.context, parts["model"], parts["seqlen"], **w.LATEST).then(**priced)
    own = {"inputs": parts["source"], "outputs": parts["own"], **w.LATEST}
    parts["source"].input(lambda source: gr.update(visible=source == OWN), **own).then(**priced)
    fields = [field for field in form if hasattr(field, "input") and field not in (parts["model"], parts["source"])]
    gr.on([event for field in fields for event in w.edits(field)], **priced)
    newest = {"fn": lambda: gr.update(choices=desk.models(), value=desk.first_choice()), "outputs": parts["model"]}
    page.blocks.load(**newest, **w.PRIVATE).then(**priced)
    started = {"outputs": [parts["measure"], parts["price"], page.choices], **w.PRIVATE}
    parts["measure"].click(partial(_start, page.studio, desk), [*form, page.choices], **started)
    parts["stop"].click(page.studio.evaluations.stop, None, None, **w.PRIVATE)
    again = {"inputs": page.choices, "outputs": [parts["trouble"], page.choices], **w.PRIVATE}
    parts["again"].click(partial(_again, page.studio), **again)
    acted = {"inputs": page.choices, "outputs": [parts["model"], page.choices], **w.PRIVATE}
    parts["table"].click(_act, **acted)
    _exports(page.studio, parts)


def _act(choices: Choices, event: gr.EventData) -> tuple[Any, Any]:
    """A button of the table: show that result, or choose that model."""
    kind, _, name = event._data["action"].partition(":")
    if kind == "show":
        return gr.skip(), replace(choices, evaluation=name)
    return gr.update(value=name), gr.skip()


def _start(studio: Studio, desk: Desk, *given: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Check and start; problems take the place of the price. One that is done already is shown."""
    *fields, choices = given
    yield gr.update(value="Starting…", interactive=False), gr.skip(), gr.skip()
    ready = gr.update(value="Measure", interactive=True)
    try:
        row = studio.evaluations.start(desk.job(*fields))
    except Exception as error:
        yield ready, w.problem(explain(error), "This evaluation cannot start."), gr.skip()
        return
    known = w.banner("info", "This was measured before.", "The result is shown below; Measure again repeats it.", "")
    yield (
        ready,
        known if row.status == "done" else gr.skip(),
        replace(choices, evaluation=row.id if row.status == "done" else ""),
    )


def _again(studio: Studio, choices: Choices) -> tuple[Any, Any]:
    """Repeat the evaluation that is shown."""
    try:
        if row := studio.evaluations.shown(choices.evaluation):
            studio.evaluations.start(row.job, again=True)
    except Exception as error:
        return gr.update(value=w.problem(explain(error), "This evaluation cannot start."), visible=True), gr.skip()
    return gr.skip(), replace(choices, evaluation="")


def _exports(studio: Studio, parts: dict[str, Any]) -> None:
    def file(kind: str) -> list[str]:
        rows = studio.evaluations.finished()
        found = told.results(rows, studio.follower.runs)
        text = told.results_csv(found) if kind == "csv" else told.results_json(found, rows)
        return [f"quip-results.{kind}", text]

    for kind in ("csv", "json"):
        carrier = gr.JSON(visible=False)
        written = parts[kind].click(lambda kind=kind: file(kind), None, carrier, **w.PRIVATE)
        written.then(None, carrier, None, js=w.DOWNLOAD, **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """The evaluation that works, the one that is shown, and the table of all."""
    evaluations = moment.studio.evaluations
    rows = evaluations.look()
    newest, view = next(iter(rows), None), evaluations.view
    alive = newest is not None and newest.alive
    trouble = views.trouble(newest, view)
    shown = evaluations.shown(moment.choices.evaluation)
    found = told.results(evaluations.finished(), moment.studio.follower.runs)
    missing = views.unmeasured(moment.studio.follower.finished(), found)
    desk = Desk(moment.studio)
    running = {
        "model": gr.update(choices=desk.models()),
        "against": gr.update(choices=desk.originals()),
        "trouble": gr.update(value=trouble or "", visible=trouble is not None),
        "working": gr.update(visible=alive),
        "measure": gr.update(interactive=not alive),
        "again": gr.update(interactive=not alive),
        "nothing": gr.update(visible=not (alive or found or missing)),
        "results": gr.update(visible=bool(found or missing)),
        "table": views.table(found, shown, missing),
    }
    if alive and view:
        drawn = views.convergence(view)
        stop = gr.update(interactive=view.row.status != "stopping")
        running |= {"live": views.live(view, moment.now), "stop": stop, "convergence": drawn}
        running["converging"] = gr.update(visible=bool(drawn))
    else:
        running["converging"] = gr.update(visible=False)
    return {**running, **_done(shown, found)}


def _done(shown: Any, found: list[told.Result]) -> dict[str, Any]:
    """The verdict and the plots of a finished evaluation."""
    if shown is None:
        return {"done": gr.update(visible=False)}
    result, plots = shown.result, views.plots(shown, found)
    return {
        "done": gr.update(visible=True),
        "outcome": views.outcome(shown),
        **plots,
        **{f"{name}_card": gr.update(visible=bool(plots[name])) for name in ("along", "blocks", "layers")},
        "worst_card": gr.update(visible=bool(result["worst"])),
        "worst": views.worst(shown) if result["worst"] else "",
    }
