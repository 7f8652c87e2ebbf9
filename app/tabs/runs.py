"""Runs: everything that was ever tried, what came of it, what waits its turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from app import figures
from app import shelf as look
from app import widgets as w
from app.live_plot import live_plot
from app.page import Choices, Moment, Page, ask, go
from app.results import results
from app.shelf_desk import ShelfDesk
from app.state import RunView
from quip_engine.runs import Run
from quip_engine.runs.sharing import transfer_of

PANELS = ("edit", "export", "push", "delete", "command")
# Events that change Choices go one after the other, so that none undoes another; clicks in quick succession all count.
ONE_BY_ONE = {**w.PRIVATE, "concurrency_id": "choices"}
EACH = {**ONE_BY_ONE, "trigger_mode": "multiple"}
COPY = """() => {
  const code = document.querySelector('#command-panel code'), range = document.createRange();
  range.selectNodeContents(code);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  navigator.clipboard?.writeText(code.textContent);
}"""
# Plotly goes into the file here, from where the page has it, so that it need not come with every report.
SAVE_REPORT = """async ([name, text]) => {
  if (!name) return;
  const plotly = await (await fetch(quipPlotlyAt)).text();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text.replace('/*plotly*/', () => plotly)], {type: 'text/html'}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


def build(page: Page) -> dict[str, Any]:
    """The queue, the table, the chosen run, and runs against each other."""
    parts: dict[str, Any] = {"trouble": w.html(visible=False)}
    text = "Every run is kept here with its recipe, its log and its figures, until you delete it."
    action = w.button("Set up a run", "Quantize", "primary")
    parts["nothing"] = w.html(w.empty("No runs yet", text, action), js_on_load=w.ACTIONS)
    with gr.Column(visible=False, elem_classes="card", elem_id="queue") as parts["queue_card"]:
        parts["queue"] = w.live(w.ACTIONS)
        parts["proceed"] = gr.Button("Let the queue go on", size="md", elem_id="proceed")
    with gr.Row(visible=False, elem_classes="wide") as parts["body"]:
        with gr.Column(scale=9, min_width=320):
            with gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="bar"):
                    parts["heading"] = w.live()
                    parts["filter"] = w.Line(
                        label="Filter", show_label=False, container=False, elem_id="runs-filter", scale=0,
                        min_width=260, placeholder="Filter by model, method, state or tag",
                    )  # fmt: skip
                parts["table"] = w.live(w.ACTIONS + w.SORTED, elem_id="runs-table")
            _against_card(parts)
        with gr.Column(scale=4, min_width=300, elem_classes="card sticky", elem_id="run-card"):
            _card(parts)
    return parts


def _against_card(parts: dict[str, Any]) -> None:
    with gr.Column(visible=False, elem_id="against") as parts["against"]:
        with gr.Column(elem_classes="card"):
            w.html(w.heading("Side by side", "What these runs were asked for differently, and what it brought.", 3))
            parts["differences"] = w.live(elem_id="differences")
        note = "Loss of each layer, log scale. Layers of the first run's model."
        parts["losses"] = live_plot("Loss by layer", note, height=320, clocked=True, elem_id="plot-several")


def _card(parts: dict[str, Any]) -> None:
    parts["card"] = w.live()
    with gr.Row(elem_classes="bar") as parts["next"]:
        parts["resume"] = gr.Button("Resume", variant="primary", size="md", elem_id="run-resume")
        parts["compare"] = gr.Button("Compare with the original", variant="primary", size="md", elem_id="run-compare")
        parts["open"] = gr.Button("Open", size="md", elem_id="run-open")
    with gr.Row(elem_classes="bar tools"):
        names = {"duplicate": "Duplicate recipe", "edit": "Name, tags, note", "report": "Report", "export": "Export"}
        names |= {"push": "Push to the hub", "command": "Copy command", "folder": "Open folder", "delete": "Delete"}
        for name, text in names.items():
            stop = {"variant": "stop"} if name == "delete" else {}
            parts[name] = gr.Button(text, size="sm", elem_classes="quiet", elem_id=f"run-{name}", **stop)
    with gr.Column(visible=False, elem_classes="drawer") as parts["edit_panel"]:
        parts["name"] = w.Line(label="Name", elem_id="run-name")
        parts["tags"] = w.Line(label="Tags", info="Separated by commas.", elem_id="run-tags")
        parts["note"] = gr.Textbox(label="Note", lines=3, max_lines=8, interactive=True, elem_id="run-note")
        parts["save"] = gr.Button("Save", size="sm", variant="primary", elem_id="run-save")
    with gr.Column(visible=False, elem_classes="drawer") as parts["export_panel"]:
        parts["folder_path"] = w.Line(
            label="New folder", info="It gets a model card beside the files.", elem_id="export-to"
        )
        parts["link"] = w.Checkbox(False, label="Hard links", info="No extra space, on the same disk.")
        parts["do_export"] = gr.Button("Export", size="sm", variant="primary", elem_id="do-export")
    with gr.Column(visible=False, elem_classes="drawer") as parts["push_panel"]:
        parts["repo"] = w.Line(label="Repository", info="owner/name; made if it is not there.", elem_id="push-to")
        parts["token"] = w.Line(
            label="Token", type="password", info="Empty: the one stored on this computer. It is used once and not kept."
        )
        parts["private"] = w.Checkbox(True, label="Private", info="Only you and your organisation see it.")
        parts["do_push"] = gr.Button("Push", size="sm", variant="primary", elem_id="do-push")
    with gr.Column(visible=False, elem_classes="drawer") as parts["delete_panel"]:
        parts["sizes"] = w.live()
        parts["with_model"] = w.Checkbox(False, label="Delete the model folder, too", elem_id="delete-model")
        with gr.Row(elem_classes="bar"):
            parts["do_delete"] = gr.Button("Delete", size="sm", variant="stop", elem_id="do-delete")
            parts["keep"] = gr.Button("Keep it", size="sm")
    with gr.Column(visible=False, elem_classes="drawer", elem_id="command-panel") as parts["command_panel"]:
        parts["line"] = w.live()
    parts["transfer"] = w.live(elem_id="transfer")
    parts["cancel"] = gr.Button("Cancel", size="sm", visible=False, elem_id="cancel-transfer")


def connect(page: Page) -> None:
    parts, desk, choices = page.built["Runs"], ShelfDesk(page.studio), page.choices
    parts["nothing"].click(w.follow, None, page.tabs, **w.PRIVATE)

    def act(now: Choices, event: gr.EventData) -> tuple[Any, Any, Any]:
        return desk.act(now, str(event._data["action"]))

    def arrange(event: gr.EventData) -> Any:
        return desk.act_on_queue(str(event._data["action"]))

    def filtered(now: Choices, words: str) -> Choices:
        return replace(now, shelf=replace(now.shelf, words=words or ""))

    parts["table"].click(act, choices, [choices, page.tabs, parts["trouble"]], **EACH)
    parts["queue"].click(arrange, None, parts["trouble"], **{**w.PRIVATE, "trigger_mode": "multiple"})
    parts["proceed"].click(desk.proceed, None, parts["trouble"], **w.PRIVATE)
    typed = {"inputs": [choices, parts["filter"]], "outputs": choices, **ONE_BY_ONE, **w.LATEST}
    gr.on(w.edits(parts["filter"]), filtered, **typed)
    _wire_card(page, desk, parts)
    _wire_panels(page, desk, parts)


def _wire_card(page: Page, desk: ShelfDesk, parts: dict[str, Any]) -> None:
    choices, trouble = page.choices, parts["trouble"]
    opened = [choices, page.tabs, trouble]
    for name in ("open", "resume"):
        parts[name].click(
            lambda now, kind=name: desk.act(now, f"{kind}:{desk.chosen(now).id}"), choices, opened, **ONE_BY_ONE
        )
    compare = page.built["Compare"]
    parts["compare"].click(desk.to_compare, choices, [page.tabs, compare["left"], compare["right"]], **w.PRIVATE)
    filled = parts["duplicate"].click(lambda now: ask(desk.job(now)), choices, page.asked, **w.PRIVATE)
    filled.then(lambda: go("Quantize"), None, page.tabs, **w.PRIVATE)
    carrier = gr.JSON(visible=False)
    parts["report"].click(desk.report, choices, carrier, **w.PRIVATE).then(
        None, carrier, None, js=SAVE_REPORT, **w.PRIVATE
    )
    parts["folder"].click(desk.open_folder, choices, trouble, **w.PRIVATE)


def _wire_panels(page: Page, desk: ShelfDesk, parts: dict[str, Any]) -> None:
    choices, trouble = page.choices, parts["trouble"]
    fields = [parts[name] for name in ("name", "tags", "note", "folder_path", "repo")]
    for name in PANELS:
        opened = parts[name].click(lambda now, panel=name: desk.panel(panel, now), choices, choices, **ONE_BY_ONE)
        opened.then(desk.filled, choices, fields, **w.PRIVATE)
        if name == "command":
            opened.then(None, None, None, js=COPY, **w.PRIVATE)
    parts["keep"].click(lambda now: desk.panel("", now), choices, choices, **ONE_BY_ONE)
    parts["save"].click(desk.describe, [choices, *fields[:3]], [choices, trouble], **ONE_BY_ONE)
    parts["do_delete"].click(desk.delete, [choices, parts["with_model"]], [choices, trouble], **ONE_BY_ONE)
    parts["do_export"].click(desk.export, [choices, parts["folder_path"], parts["link"]], trouble, **w.PRIVATE)
    push = [choices, parts["repo"], parts["token"], parts["private"]]
    parts["do_push"].click(desk.push, push, [trouble, parts["token"]], **w.PRIVATE)
    parts["cancel"].click(desk.cancel, choices, trouble, **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """Table, card, queue and comparison of this moment."""
    studio, shelf = moment.studio, moment.choices.shelf
    runs = studio.follower.runs
    if not runs:
        hidden = dict.fromkeys(("queue_card", "body", "against"), gr.update(visible=False))
        return {"nothing": gr.update(visible=True), **hidden}
    found = look.measured(results(studio.evaluations.look(), runs))
    usual = moment.newest.run if moment.newest else runs[0]
    chosen = next((run for run in runs if run.id == shelf.run), usual)
    shown = look.matching(runs, shelf.words)
    live = moment.newest if moment.busy else None
    return {
        "nothing": gr.update(visible=False),
        "body": gr.update(visible=True),
        "heading": look.heading(runs, shown),
        "table": look.table(shown, live, found, replace(shelf, run=chosen.id)) if shown else w.note("No run matches."),
        **_queue(moment, runs),
        **_chosen(moment, chosen, found),
        **_against(moment, found),
    }


def _queue(moment: Moment, runs: list[Run]) -> dict[str, Any]:
    waiting = sorted((run for run in runs if run.status == "queued"), key=lambda run: run.place or 0)
    busy = moment.busy or moment.studio.evaluations.store.active() is not None
    holders = [run for run in runs if run.holds and not run.alive]
    return {
        "queue_card": gr.update(visible=bool(waiting)),
        "queue": look.queue(waiting, holders, busy),
        "proceed": gr.update(visible=not busy),
    }


def _chosen(moment: Moment, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    panel, done = moment.choices.shelf.panel, run.status == "done"
    view, _ = moment.studio.follower.chosen(run.id)
    transfer = transfer_of(run)
    sending = transfer is not None and transfer.status == "working"
    return {
        "card": look.card(run, view, found.get(run.id)),
        "resume": gr.update(visible=run.resumable, interactive=not moment.busy),
        "compare": gr.update(visible=done),
        **{name: gr.update(visible=run.status != "queued") for name in ("next", "report", "folder")},
        **{name: gr.update(visible=done) for name in ("export", "push")},
        "delete": gr.update(interactive=not run.alive),
        **{f"{name}_panel": gr.update(visible=panel == name) for name in PANELS},
        "sizes": ShelfDesk(moment.studio).sizes(run) if panel == "delete" else "",
        "line": look.command_of(run),
        "transfer": look.transfer(transfer),
        "cancel": gr.update(visible=sending),
    }


def _against(moment: Moment, found: dict[str, Any]) -> dict[str, Any]:
    """Two runs or more, if so many are marked."""
    follower, marked = moment.studio.follower, moment.choices.shelf.marked
    runs = [run for run in follower.runs if run.id in marked]
    if len(runs) < 2:
        return {"against": gr.update(visible=False)}
    pairs = [(run, follower.chosen(run.id)[0]) for run in runs]
    told = [(run, view) for run, view in pairs if view is not None and view.lanes]
    return {
        "against": gr.update(visible=True),
        "differences": look.differences(runs, found),
        "losses": _losses(told) if told else {},
    }


def _losses(told: list[tuple[Run, RunView]]) -> dict[str, Any]:
    named = [(run.id.replace("-", " "), view.points()) for run, view in told]
    return figures.losses(named, told[0][1].axis)
