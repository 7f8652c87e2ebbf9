"""What a tab is to the page: how it is built, what it shows each second, how it reaches the others.

A tab is a module of ``app/tabs`` with

    build(page) -> parts      its components by name; called once, inside its tab
    show(moment) -> values    what some of these parts show now, once a second; left out by tabs that only answer
    connect(page)             events that need other tabs; left out by tabs that need none; called when all are built

``show`` is a function of the moment alone: markup or a figure for a live part (live.py), ``gr.update(...)`` for any
other component. Only what has changed since the last second goes to the browser. A live part has no other writer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import gradio as gr
from gradio.blocks import Block

from app.state import RunView
from app.studio import Studio
from quip_engine.config import JobConfig


@dataclass(frozen=True)
class Shelf:
    """What a visitor looks at in the Runs tab."""

    run: str = ""  # empty: the newest
    marked: tuple[str, ...] = ()  # for the comparison
    words: str = ""  # of the filter
    panel: str = ""  # that is open below the run's buttons


@dataclass
class Choices:
    """What one visitor has chosen to see. Lost on reload, as scrolling is."""

    all_layers: bool = False  # in the table of the Monitor
    evaluation: str = ""  # shown by Evaluate; empty: the newest
    run: str = ""  # shown by the Monitor; empty: the one that was started last
    shelf: Shelf = Shelf()
    sure: str = ""  # the run that is about to be stopped, once its confirmation is given


@dataclass(frozen=True)
class Moment:
    """Everything that a page may show now. ``view`` and ``previous`` are those of the run that is chosen."""

    studio: Studio
    choices: Choices
    view: RunView | None
    previous: RunView | None
    newest: RunView | None
    now: float

    @property
    def busy(self) -> bool:
        """A worker is at work."""
        return self.newest is not None and self.newest.run.alive


class Tab(Protocol):
    """A module of ``app/tabs``; ``show`` and ``connect`` may be missing."""

    def build(self, page: Page) -> dict[str, Any]: ...


@dataclass
class Page:
    """The parts of the page that reach each other: the strip and each tab's components, by name."""

    studio: Studio
    blocks: gr.Blocks
    model: gr.State  # the chosen one, as ``probe`` is asked for it
    choices: gr.State  # Choices
    asked: gr.State  # from ``ask``: set it, and the Quantize form is filled with the job
    strip: dict[str, Any]
    tabs: Any = None  # gr.Tabs
    built: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the title of the tab

    def parts(self) -> dict[str, Block]:
        """All of them, by "tab name"; what else a tab keeps there, such as events, is left out."""
        groups = {"strip": self.strip, **self.built}
        named = {f"{group} {name}": part for group, parts in groups.items() for name, part in parts.items()}
        return {name: part for name, part in named.items() if isinstance(part, Block)}


def ask(job: JobConfig) -> tuple[dict[str, Any], int]:
    """A value for ``page.asked``, another one each time; as JSON, since Gradio hashes what a state holds."""
    return job.to_json(), time.monotonic_ns()


def go(name: str) -> Any:
    """Select a tab by its title: a value for ``page.tabs``."""
    return gr.Tabs(selected=name)
