"""Monitor: one run, live. The header says where it is, the lanes say how well, the tiles say where the trouble is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from app import guarantee, layer_table, shelf, tuning_views, views
from app import widgets as w
from app.live_plot import live_plot
from app.page import Choices, Moment, Page, go
from app.results import results
from app.state import RunView, explain
from app.studio import Studio

FOLLOW_END = """
const end = () => { const log = element.querySelector('.log'); if (log) log.scrollTop = log.scrollHeight; };
watch('value', () => requestAnimationFrame(end));
requestAnimationFrame(end);
"""


def build(page: Page) -> dict[str, Any]:
    """Build the tab; the components by the names under which ``show`` fills them."""
    parts: dict[str, Any] = {
        "trouble": w.html(visible=False),
        "nothing": w.html(
            w.empty(
                "Nothing has run yet",
                "A run shows up here while it works, layer by layer, and goes on when this page is closed.",
                w.button("Set up a run", "Quantize", "primary"),
            ),
            js_on_load=w.ACTIONS,
        ),
    }
    with gr.Column(visible=False) as parts["body"]:
        with gr.Column(elem_classes="card"):
            with gr.Row(elem_classes="bar"):
                parts["head"] = w.live()
                parts["act"] = gr.Button("Resume", variant="primary", size="md", visible=False, elem_id="act")
                parts["pause"] = gr.Button("Pause", size="md", visible=False, elem_id="pause")
                parts["stop"] = gr.Button("Stop now", variant="stop", size="md", visible=False, elem_id="stop-now")
            with gr.Row(visible=False, elem_classes="bar confirm") as parts["sure"]:
                w.html(w.note("Layers of the unfinished block are lost; finished blocks stay, and it can be resumed."))
                parts["stop_sure"] = gr.Button("Stop now", variant="stop", size="sm", elem_id="stop-now-sure")
                parts["go_on"] = gr.Button("Let it run", size="sm")
            parts["numbers"] = w.live()
            parts["told"] = w.live()
        _plots(parts)
        _guarantee(parts)
        with gr.Row(elem_classes="wide two-one"):
            with gr.Column(scale=2, min_width=320, elem_classes="card"):
                with gr.Row(elem_classes="bar"):
                    parts["caption"] = w.live()
                    parts["all"] = gr.Button("Show all", size="sm", elem_classes="quiet")
                    parts["export"] = gr.Button("Export CSV", size="sm", elem_classes="quiet")
                parts["layers"] = w.live(w.ACTIONS + w.SORTED)
            with gr.Column(scale=1, min_width=280, elem_classes="card", elem_id="log-card"):
                w.html(w.heading("Log", level=3))
                parts["log"] = w.live(FOLLOW_END)
    _export(page, parts["export"])
    return parts


def _plots(parts: dict[str, Any]) -> None:
    keys = ("diamond", "before"), ("dot", "after the transform"), ("dash", "what a random rotation promises")
    ends: dict[str, Any] = {"legend": w.legend(*keys), "height": 260, "clocked": True}
    with gr.Row(elem_classes="wide two-one"):
        with gr.Column(scale=2, min_width=320):
            parts["loss"] = live_plot(
                "Proxy loss",
                "How much of each layer's output is lost, on a log scale. A click on a point looks into the layer.",
                legend=w.legend(("line", "this run"), ("grey", "an earlier run of this model, if there is one")),
                height=320,
                clocked=True,
                elem_id="plot-loss",
            )
        with gr.Column(scale=1, min_width=280):
            parts["tiles"] = live_plot(
                "Block map", "The same loss, one tile a layer.", height=344, clocked=True, elem_id="plot-tiles"
            )
    _beyond(parts)
    with gr.Row(elem_classes="wide one-one"):
        with gr.Column(min_width=320):
            text = "Largest weight over the root mean square: how far outliers stand out."
            parts["mu_w"] = live_plot("Incoherence of the weights", text, **ends, elem_id="plot-mu-w")
        with gr.Column(min_width=320):
            text = "The same for the directions the inputs take: the eigenvectors of H."
            parts["mu_h"] = live_plot("Incoherence of the inputs", text, **ends, elem_id="plot-mu-h")


def _beyond(parts: dict[str, Any]) -> None:
    """Tuning, and who got the bits: shown where there is something of it."""
    keys = [("line", "held-out KL"), ("grey", "loss of a step"), ("dash", "before the stage"), ("ring", "best")]
    with gr.Row(visible=False, elem_classes="wide two-one") as parts["beyond"]:
        with gr.Column(scale=2, min_width=320, visible=False) as parts["tuned"]:
            text = "How far the model is from the original, judged on text that it is not trained on."
            legend = w.legend(*keys)
            parts["kl"] = live_plot("Tuning", text, legend=legend, height=280, clocked=True, elem_id="plot-kl")
        with gr.Column(scale=1, min_width=280, visible=False) as parts["shared"]:
            text = "Bits of each layer, as they were shared out."
            parts["bits"] = live_plot("Who gets the bits", text, height=304, clocked=True, elem_id="plot-allocated")


def _guarantee(parts: dict[str, Any]) -> None:
    keys = [
        ("dot", "measured"),
        ("thin", "expected on average"),
        ("dash", "μ bound"),
        ("dots", "no code can lose less"),
    ]
    text = "What theory promises for each layer, and what was measured."
    parts["theory"] = live_plot(
        "The guarantee", text, legend=w.legend(*keys), height=300, clocked=True, elem_id="plot-theory"
    )
    with gr.Column(elem_classes="card"):
        parts["verdict"] = w.live()
        with gr.Accordion("Theory and measurement of every layer", open=False, elem_id="theory-fold") as parts["fold"]:
            parts["theory_table"] = w.html(js_on_load=w.SORTED)


def _export(page: Page, button: gr.Button) -> None:
    def csv_file(choices: Choices) -> list[str]:
        view, _ = page.studio.follower.chosen(choices.run)
        return [f"{view.run.id}-layers.csv", layer_table.as_csv(view)] if view else ["", ""]

    carrier = gr.JSON(visible=False)
    written = button.click(csv_file, page.choices, carrier, **w.PRIVATE)
    written.then(None, carrier, None, js=w.DOWNLOAD, **w.PRIVATE)


def connect(page: Page) -> None:
    studio, parts = page.studio, page.built["Monitor"]

    def act(choices: Choices) -> tuple[Any, Any]:
        view, _ = studio.follower.chosen(choices.run)
        if view is None or view.run.status == "done":
            return go("Compare"), gr.skip()
        try:
            studio.resume(view.run.id)
        except Exception as error:
            return gr.skip(), gr.update(value=w.problem(explain(error)), visible=True)
        return gr.skip(), gr.update(visible=False)

    def toggle(choices: Choices) -> Choices:
        return replace(choices, all_layers=not choices.all_layers)

    def stop(choices: Choices) -> Choices:
        studio.stop()
        return replace(choices, sure="")

    def ask_first(choices: Choices) -> Choices:
        view, _ = studio.follower.chosen(choices.run)
        return replace(choices, sure=view.run.id if view else "")

    parts["act"].click(act, page.choices, [page.tabs, parts["trouble"]], **w.PRIVATE)
    parts["all"].click(toggle, page.choices, page.choices, **w.PRIVATE)
    parts["pause"].click(studio.pause, None, None, **w.PRIVATE)
    parts["stop"].click(ask_first, page.choices, page.choices, **w.PRIVATE)
    parts["stop_sure"].click(stop, page.choices, page.choices, **w.PRIVATE)
    parts["go_on"].click(lambda choices: replace(choices, sure=""), page.choices, page.choices, **w.PRIVATE)
    parts["nothing"].click(w.follow, None, page.tabs, **w.PRIVATE)

    def unfold(choices: Choices) -> w.Html:
        view, _ = studio.follower.chosen(choices.run)
        return guarantee.table(view) if view else w.Html("")

    parts["fold"].expand(unfold, page.choices, parts["theory_table"], **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """The run that is chosen."""
    view = moment.view
    if view is None:
        return {
            "trouble": gr.update(visible=False),
            "nothing": gr.update(visible=True),
            "body": gr.update(visible=False),
        }
    trouble = views.trouble(view)
    tuned, shared = bool(view.tuning.stages), view.allocated is not None and bool(view.lanes)
    act = {"done": "Compare with the original"}.get(view.run.status, "Resume")
    return {
        "trouble": gr.update(value=trouble or "", visible=trouble is not None),
        "nothing": gr.update(visible=False),
        "body": gr.update(visible=True),
        "pause": gr.update(visible=view.run.alive, interactive=view.run.status != "stopping"),
        "stop": gr.update(visible=view.run.alive and moment.choices.sure != view.run.id),
        "sure": gr.update(visible=view.run.alive and moment.choices.sure == view.run.id),
        "act": gr.update(value=act, visible=view.run.status == "done" or view.run.resumable),
        **views.screen(view, moment.previous, moment.now),
        "told": _told(moment.studio, view),
        "beyond": gr.update(visible=tuned or shared),
        "tuned": gr.update(visible=tuned),
        "shared": gr.update(visible=shared),
        "theory": guarantee.plot(view),
        "verdict": guarantee.verdict(view),
        **_table(view, moment.previous, moment.choices.all_layers),
    }


def _told(studio: Studio, view: RunView) -> w.Html:
    """What came of the run beside what was expected of it, once it has ended."""
    if not view.finished:
        return tuning_views.told(view, None, None)
    measured = shelf.measured(results(studio.evaluations.look(), studio.follower.runs))
    return tuning_views.told(view, studio.expectations.of(view.run.job), measured.get(view.run.id))


def _table(view: RunView, previous: RunView | None, everything: bool) -> dict[str, Any]:
    """The layer table in the length that was asked for."""
    more = len(view.layers) > layer_table.LATEST
    text = "All of them, latest first." if everything or not more else "The eight latest."
    text = text if view.layers else "None is finished yet."
    return {
        "caption": w.heading("Layers", text, 3),
        "all": gr.update(value="Show latest" if everything else "Show all", visible=more),
        "layers": layer_table.table(view, previous, everything),
    }
