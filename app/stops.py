"""Work of an event that a button of the same page may stop: one piece of it for each page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


class Stops(dict[str, threading.Event]):
    """What is under way, by page."""

    @contextmanager
    def begun(self, request: gr.Request) -> Iterator[threading.Event]:
        """An event that is set once the page asks to stop."""
        key = request.session_hash or ""
        self[key] = stop = threading.Event()
        try:
            yield stop
        finally:
            self.pop(key, None)

    def stop(self, request: gr.Request) -> None:
        if event := self.get(request.session_hash or ""):
            event.set()
