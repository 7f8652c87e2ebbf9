"""What a typed name, folder or word is: checked here, looked up on the hub, told before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import library_views as views
from app import widgets as w
from app.fmt import plural, size
from app.library import model_folders
from app.state import explain
from app.studio import Studio
from quip_engine import hub
from quip_engine.errors import QuipError, fail
from quip_engine.packed import packed_facts
from quip_engine.probe import locate
from quip_engine.probe.folder import local_folder
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import read_config

PACKED = ("ALREADY_QUANTIZED", "OWN_OUTPUT")
HIDDEN = gr.update(visible=False)


def search(studio: Studio, words: str) -> Iterator[tuple[Any, Any]]:
    """Models of the hub with these words in their name."""
    yield gr.update(value=w.banner("info", "Asking the hub…", "", ""), visible=True), HIDDEN
    try:
        if studio.offline:
            fail("HUB_SILENT")
        if not words.strip():
            fail("BAD_SETTING", field="search", value="nothing", allowed="some letters of a name")
        shown = views.results(hub.search(words), words.strip()[: hub.MOST_WORDS])
    except Exception as error:
        shown = w.problem(explain(error))
    yield gr.update(value=shown, visible=True), HIDDEN


def check(studio: Studio, name: str) -> Iterator[tuple[Any, ...]]:
    """What a typed model is, or what is wrong with it. Folders that hold models are remembered."""
    yield _answer(w.banner("info", f"Checking {name.strip() or 'the model'}…", "", ""))
    try:
        folder = local_folder(name)
        if folder:
            yield _local(studio, name)
        else:
            yield _of_the_hub(studio, name.strip())
    except Exception as error:
        yield _answer(w.problem(explain(error)))


def _local(studio: Studio, name: str) -> tuple[Any, ...]:
    """A folder, or a model of the hub that is in the cache."""
    folder = local_folder(name)
    inside = model_folders(folder) if folder else []
    if folder and inside and inside != [folder]:
        studio.library.add(folder)
        found = w.banner("info", f"{plural(len(inside), 'model')} found in {folder}.", "See the list above.", "")
        return _answer(found)
    try:
        facts = studio.facts(name)
        told, runs, model = views.verdict(facts), False, str(folder or facts.name)
    except QuipError as error:
        if error.code not in PACKED or not (packed := _packed(studio, name)):
            raise
        told, runs, model = packed, True, str(folder or name)
    if folder:
        studio.library.add(folder)
    return _answer(told, use=not runs, compare=runs, checked=model)


def _packed(studio: Studio, name: str) -> w.Html | None:
    """What is told of a folder that runs packed as it is."""
    path, title = locate(name, offline=studio.offline)
    packing = packing_of(read_config(path), path)
    return views.packed_verdict(packed_facts(path, title, packing)) if packing else None


def _of_the_hub(studio: Studio, name: str) -> tuple[Any, ...]:
    """A model of the hub, told before anything of it is fetched."""
    hub.check_id(name)
    if studio.offline or hub.cached(name):
        return _local(studio, name)
    found = hub.look(name)
    get = f"Download {size(found.bytes)}" if found.files else ""
    return _answer(views.listing(found), get=get, checked=found.name)


def _answer(
    verdict: Any, *, use: bool = False, get: str = "", compare: bool = False, checked: str = ""
) -> tuple[Any, ...]:
    """Verdict, three buttons, the model they are about."""
    return (
        gr.update(value=verdict, visible=True),
        gr.update(visible=use),
        gr.update(visible=bool(get), **({"value": get} if get else {})),
        gr.update(visible=compare),
        checked,
    )
