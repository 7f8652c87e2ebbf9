"""What the Runs tab answers: every action on a run, checked on the server, with its problem in words.

A handler returns new ``Choices`` and what the banner says. Runs are named by id in the markup; a name that is not one
of the history is refused by the store, whatever a page sends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import shelf as look
from app import widgets as w
from app.guard import LOOPBACK
from app.page import Choices
from app.report import report
from app.results import Result, results
from app.state import explain, read_view
from app.studio import Studio
from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.runs import Run, proceed, queue
from quip_engine.runs.removal import delete, footprint
from quip_engine.runs.sharing import Transfer, begin, cancel, finished_folder

QUIET = gr.update(visible=False)


def banner(error: Exception) -> Any:
    return gr.update(value=w.problem(explain(error)), visible=True)


class ShelfDesk:
    """Answers for all pages; which run a page means is in its choices."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def chosen(self, choices: Choices) -> Run:
        """The run whose card is shown. Raises ``RUN_NOT_FOUND``."""
        if choices.shelf.run:
            return self.studio.follower.store.get(choices.shelf.run)
        follower = self.studio.follower
        if follower.view:
            return follower.view.run
        return follower.runs[0] if follower.runs else fail("RUN_NOT_FOUND", name="yet")

    def act(self, choices: Choices, action: str) -> tuple[Any, Any, Any]:
        """A button of the table: choices, tab, banner."""
        kind, _, run_id = action.partition(":")
        try:
            run, shelf = self.studio.follower.store.get(run_id), choices.shelf
            if kind == "mark":
                marked = tuple(r for r in shelf.marked if r != run.id) or ()
                marked = marked if run.id in shelf.marked else (*shelf.marked, run.id)[-look.MOST :]
                return replace(choices, shelf=replace(shelf, marked=marked)), gr.skip(), QUIET
            if kind == "resume":
                self.studio.resume(run.id)
            if kind in ("open", "resume"):
                return replace(choices, run=run.id), gr.Tabs(selected="Monitor"), QUIET
            return replace(choices, shelf=replace(shelf, run=run.id, panel="")), gr.skip(), QUIET
        except Exception as error:
            return gr.skip(), gr.skip(), banner(error)

    def act_on_queue(self, action: str) -> Any:
        """A button of the queue: banner."""
        kind, _, run_id = action.partition(":")
        return self._done(lambda: self._moved(kind, run_id))

    def _moved(self, kind: str, run_id: str) -> None:
        home = self.studio.home
        if kind == "remove":
            queue.remove(run_id, home)
        else:
            queue.move(run_id, 1 if kind == "up" else -1, home)

    def proceed(self) -> Any:
        return self._done(lambda: proceed(self.studio.home))

    def _done(self, work: Callable[[], object]) -> Any:
        """Do it, look again, and say what went wrong if something did."""
        try:
            work()
            self.studio.follower.refresh()
        except Exception as error:
            return banner(error)
        return QUIET

    # -- the chosen run ------------------------------------------------------------------------------------------------

    def panel(self, name: str, choices: Choices) -> Choices:
        """Open a panel, or close it when it is open."""
        shelf = choices.shelf
        return replace(choices, shelf=replace(shelf, panel="" if shelf.panel == name else name))

    def filled(self, choices: Choices) -> list[Any]:
        """The fields of the panels for the chosen run."""
        try:
            run = self.chosen(choices)
        except Exception:
            return [gr.skip()] * 5
        stem = Path(run.job.out).name
        return [run.name, ", ".join(run.tags), run.note, str(Path.home() / stem), f"owner/{stem}"]

    def describe(self, choices: Choices, name: str, tags: str, note: str) -> tuple[Any, Any]:
        try:
            run = self.chosen(choices)
            self.studio.follower.store.describe(run.id, name=name or "", tags=(tags or "").split(","), note=note or "")
            self.studio.follower.refresh()
        except Exception as error:
            return gr.skip(), banner(error)
        return self.panel("", choices), QUIET

    def delete(self, choices: Choices, checkpoint: bool) -> tuple[Any, Any]:
        """Delete the run its panel was opened for: the card of another run has no open panel."""
        try:
            run = self.chosen(choices)
            delete(run.id, self.studio.home, checkpoint=bool(checkpoint))
            self.studio.follower.refresh()
        except Exception as error:
            return gr.skip(), banner(error)
        marked = tuple(r for r in choices.shelf.marked if r != run.id)
        shelf = replace(choices.shelf, run="", panel="", marked=marked)
        return replace(choices, shelf=shelf, run="" if choices.run == run.id else choices.run), QUIET

    def sizes(self, run: Run) -> w.Html:
        return look.told_sizes(run, footprint(run, self.studio.home))

    def export(self, choices: Choices, folder: str, link: bool) -> Any:
        return self._done(lambda: self._begin(choices, Transfer("export", _absolute(folder), link=bool(link))))

    def push(self, choices: Choices, name: str, token: str, private: bool) -> tuple[Any, str]:
        """Banner, and the token field emptied: it is not kept."""
        transfer = Transfer("push", (name or "").strip(), private=bool(private))
        return self._done(lambda: self._begin(choices, transfer, (token or "").strip())), ""

    def _begin(self, choices: Choices, transfer: Transfer, token: str = "") -> None:
        begin(self.chosen(choices), transfer, self.studio.home, token)

    def cancel(self, choices: Choices) -> Any:
        return self._done(lambda: cancel(self.chosen(choices)))

    def job(self, choices: Choices) -> JobConfig:
        """The recipe of the run, for a new folder."""
        run = self.chosen(choices)
        return replace(run.job, out=str(self.studio.folder_for(run.job.model, run.job.recipe, run.job.budget)))

    def report(self, choices: Choices) -> list[str]:
        """Name and text of the report; the page puts its own copy of Plotly in."""
        run = self.chosen(choices)
        return [f"{run.id}-report.html", report(read_view(run), self.measured().get(run.id), plotly="")]

    def measured(self) -> dict[str, Result]:
        return look.measured(results(self.studio.evaluations.look(), self.studio.follower.runs))

    def open_folder(self, request: gr.Request, choices: Choices) -> Any:
        """Show the model's folder in the file manager, where visitor and server are one machine; else its path."""
        try:
            run = self.chosen(choices)
            folder = finished_folder(run) if run.status == "done" else run.directory
            local = bool(request.client) and request.client.host in LOOPBACK
            shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
            opener = shutil.which("xdg-open")
            if local and shown and opener:
                subprocess.Popen([opener, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                return QUIET
        except Exception as error:
            return banner(error)
        return gr.update(value=w.banner("info", "The folder is", w.tag("code", folder), ""), visible=True)

    def to_compare(self, choices: Choices) -> tuple[Any, Any, Any]:
        """Tab, original and model of the Compare tab."""
        run = self.chosen(choices)
        return gr.Tabs(selected="Compare"), gr.update(value=run.job.model), gr.update(value=run.id)


def _absolute(folder: str | None) -> str:
    if not (typed := (folder or "").strip()):
        fail("BAD_SETTING", field="folder", value="nothing", allowed="the path of a new folder")
    return str(Path(typed).expanduser().absolute())
