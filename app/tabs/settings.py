"""Settings: few, plain, each with its consequence. They are kept at once; there is nothing to save."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
import torch

from app import widgets as w
from app.fields import DEVICE_NAMES
from app.fmt import plural, size
from app.forms import whole
from app.machine import free_disk, memory
from app.page import Moment, Page
from app.settings import has_token, store_token
from app.state import explain
from app.studio import Studio
from quip_engine import __version__
from quip_engine.native import status
from quip_engine.probe.folder import local_folder

THEMES = {"Like the system": "system", "Light": "light", "Dark": "dark"}
LIBRARIES = ("torch", "transformers", "gradio", "safetensors", "datasets", "plotly")
CHOSEN = "choice => window.quipTheme(choice)"
SHOW_CHOSEN = "() => window.quipTheme()"
COPY = "text => navigator.clipboard?.writeText(text)"


def build(page: Page) -> dict[str, Any]:
    studio = page.studio
    parts: dict[str, Any] = {"trouble": w.html(visible=False)}
    with gr.Row(elem_classes="wide"):
        with gr.Column(scale=7):
            with gr.Column(elem_classes="card"):
                w.html(w.heading("Folders and downloads", level=3))
                _folders(studio, parts)
                _hub(studio, parts)
            with gr.Column(elem_classes="card"):
                w.html(w.heading("Running", level=3))
                _running(studio, parts)
            with gr.Column(elem_classes="card"):
                w.html(w.heading("Appearance", level=3))
                choices = list(THEMES.items())
                theme = w.Radio(choices, value="system", label="Theme", elem_classes="segmented", elem_id="theme")
                theme.input(None, theme, None, js=CHOSEN, **w.PRIVATE)
                page.blocks.load(None, None, theme, js=SHOW_CHOSEN, **w.PRIVATE)
        with gr.Column(scale=5, elem_classes="sticky"), gr.Column(elem_classes="card"):
            w.html(w.heading("This computer", level=3))
            parts["facts"] = w.live()
            with gr.Row(elem_classes="bar"):
                copy = gr.Button("Copy diagnostics", size="md", elem_id="diagnostics")
            shown = w.html()
    carrier = gr.Textbox(visible=False)
    told = copy.click(lambda: [diagnostics(studio)] * 2, None, [carrier, shown], **w.PRIVATE)
    told.then(None, carrier, None, js=COPY, **w.PRIVATE)
    carrier.change(lambda text: w.Html(f"<pre tabindex=0>{w.safe(text)}</pre>"), carrier, shown, **w.PRIVATE)
    return parts


def _folders(studio: Studio, parts: dict[str, Any]) -> None:
    w.html(w.facts([("Data folder", w.tag("span", studio.home, "path-text"))]))
    parts["used"] = w.live()
    parts["folders"] = w.html(folder_table(studio), js_on_load=w.ACTIONS)
    with gr.Row(elem_classes="bar"):
        typed = w.Line(
            label="Another folder with models",
            show_label=False,
            container=False,
            placeholder="a folder with models",
            elem_id="add-folder",
        )
        add = gr.Button("Add folder", size="md")

    def added(path: str) -> tuple[Any, Any]:
        try:
            if folder := local_folder(path):
                studio.library.add(folder)
        except Exception as error:
            return gr.skip(), gr.update(value=w.problem(explain(error)), visible=True)
        return folder_table(studio), gr.update(visible=False)

    def removed(event: gr.EventData) -> w.Html:
        studio.library.remove(Path(event._data["action"].removeprefix("remove:")))
        return folder_table(studio)

    gr.on([add.click, typed.submit], added, typed, [parts["folders"], parts["trouble"]], **w.PRIVATE)
    parts["folders"].click(removed, None, parts["folders"], **w.PRIVATE)


def folder_table(studio: Studio) -> w.Html:
    """The folders that were added; their files stay where they are when one is removed."""
    folders = studio.library.folders()
    if not folders:
        return w.note("No folder of models has been added yet.")
    rows = [[w.tag("span", f, "path-text"), w.button("Remove", f"remove:{f}")] for f in folders]
    return w.table([("Folder", "text"), ("", "act")], rows, "Folders with models")


def _hub(studio: Studio, parts: dict[str, Any]) -> None:
    text = "Downloads are refused, everything else works."
    offline = w.Checkbox(
        studio.offline,
        label="Offline: never open a connection",
        info="Set by the command line." if studio.never_online else text,
        elem_id="offline",
    )
    offline.interactive = not studio.never_online
    token = w.Line(
        type="password",
        label="Hugging Face token",
        info="For models that ask for a licence, and to publish yours. Stored on this computer, never shown again.",
        placeholder="hf_…",
        elem_id="token",
    )
    with gr.Row(elem_classes="bar"):
        keep = gr.Button("Store the token", size="sm")
        forget = gr.Button("Forget it", size="sm", elem_classes="quiet")
        parts["token"] = w.html(_token_state())
    offline.input(partial(_change, studio, "offline"), offline, parts["trouble"], **w.LATEST)
    outputs = [token, parts["token"], parts["trouble"]]
    gr.on([keep.click, token.submit], _stored, token, outputs, **w.PRIVATE)
    forget.click(lambda: _stored(""), None, outputs, **w.PRIVATE)


def _token_state() -> w.Html:
    return w.pill("a token is stored", "yes") if has_token() else w.pill("no token", "idle")


def _stored(token: str) -> tuple[Any, Any, Any]:
    try:
        store_token(token)
    except Exception as error:
        return gr.skip(), gr.skip(), gr.update(value=w.problem(explain(error)), visible=True)
    return "", _token_state(), gr.update(visible=False)


def _running(studio: Studio, parts: dict[str, Any]) -> None:
    names = [(name, device) for device, name in DEVICE_NAMES.items()]
    with gr.Row():
        text = "Of Compare. A run has its own, in Quantize."
        device = w.Radio(
            names, value=studio.settings.device, label="Device", info=text, elem_classes="segmented", min_width=280
        )
        text = f"0 takes all {psutil.cpu_count() or 1}. For new runs, and for Compare."
        threads = w.Number(
            studio.settings.threads or 0, label="CPU threads", info=text, min_width=160, elem_id="threads"
        )
    device.input(partial(_change, studio, "device"), device, parts["trouble"], **w.LATEST)
    threads.input(partial(_change, studio, "threads"), threads, parts["trouble"], **w.LATEST)


def _change(studio: Studio, name: str, value: Any) -> Any:
    """One setting, kept at once. The banner says what is not possible."""
    try:
        changed: dict[str, Any] = {name: (whole(value) or None) if name == "threads" else value}
        studio.set(replace(studio.settings, **changed))
    except Exception as error:
        return gr.update(value=w.problem(explain(error)), visible=True)
    return gr.update(visible=False)


def show(moment: Moment) -> dict[str, Any]:
    studio = moment.studio
    free, runs = free_disk(studio.home), len(studio.follower.runs)
    return {
        "used": w.note(f"{plural(runs, 'run')} in its history, {size(free)} free on its disk."),
        "facts": w.facts(facts(studio)),
    }


def facts(studio: Studio) -> list[tuple[str, str]]:
    """What this computer is and what the program runs on."""
    ram, gpu = psutil.virtual_memory().total, memory()
    local = studio.address.startswith(("127.", "localhost", "[::1]", "::1"))
    found = [
        ("Address", studio.address),
        ("Reachable from", "this computer only" if local else "the network, with a password"),
        ("GPU", f"{gpu.label}, {size(gpu.total)}" if gpu.label != "Memory" else "none"),
        ("Memory", size(ram)),
        ("Cores", f"{psutil.cpu_count()}, {torch.get_num_threads()} in use"),
        ("Kernels", status()),
        ("Studio", __version__),
        ("Python", platform.python_version()),
    ]
    return found + [(name, version(name)) for name in LIBRARIES]


def diagnostics(studio: Studio) -> str:
    """For a report: what this computer is, and how the last runs went. No names of models, folders or tokens."""
    lines = [f"{name}: {value}" for name, value in facts(studio)]
    lines += [f"System: {platform.platform()}, {platform.machine()}", f"Executable: Python {sys.version}"]
    lines += [f"Offline: {studio.offline}; free disk: {size(free_disk(studio.home))}"]
    for run in studio.follower.runs[:5]:
        error = (run.error or {}).get("error", "")
        lines.append(f"{run.id}: {run.job.title}, {run.status} {error}".rstrip())
    return "\n".join(lines)
