"""What the Quantize tab answers to those who want to know what sizes cost, and who gets the bits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app import forms, outlook, sizing
from app import widgets as w
from app.desk import Desk
from app.expectations import MINUTES
from app.fmt import eta
from app.sizing import BITS
from app.state import explain
from app.stops import Stops
from quip_engine.best import best_job
from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError, Stopped

PATIENCE = 1.25  # times what the measurement is asked to take: it starts, and ends what it has begun


class OutlookDesk:
    """Beside ``Desk``, which knows the form; one measurement at a time for each page."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.form, self.studio = desk, desk.form, desk.studio
        self.stops = Stops()

    def expect(self, request: gr.Request, *given: Any) -> Iterator[list[Any]]:
        """Measure what sizes cost: ask, stop, progress. The curve comes with the price."""
        with self.stops.begun(request) as stop:
            try:
                yield _working("Starting", 0.0)
                job = self.form.job(self.studio, given)
                started, said = time.monotonic(), 0.0
                for now in self.studio.expectations.measure(job, stop.is_set):
                    spent = time.monotonic() - started
                    if spent - said >= 1:
                        said = spent
                        yield _working(now, spent / (60 * MINUTES * PATIENCE))
            except Stopped:
                pass
            except Exception as error:
                yield _idle(gr.update(value=w.problem(explain(error)), visible=True))
                return
            yield _idle(gr.update(visible=False))

    def best(self, *given: Any) -> list[Any]:
        """The whole form as it is best at its size, and the banner where it cannot be."""
        typed = (self.form.values(given)[1]["out"] or "").strip()
        try:
            job = self.form.job(self.studio, given)
            job = replace(best_job(job, self.studio.facts(job.model)), out=typed)
            return [*self.desk.filled(job), gr.update(visible=False)]
        except Exception as error:
            banner = gr.update(value=w.problem(explain(error)), visible=True)
            return [*[gr.skip()] * len(self.desk.everything), banner]

    def stop(self, request: gr.Request) -> None:
        """Also when the page is left."""
        self.stops.stop(request)

    def take_bits(self, event: gr.EventData, *given: Any) -> list[Any]:
        """The size of a point: how it is asked, note, recipe and ways."""
        _, fields, parts = self.form.values(given)
        preset = self.form.preset(fields)
        try:
            own = forms.preset_options(preset.name, parts)
            asked = RecipeConfig(preset.name, float(str(event._data["action"])), options=own)
            return [BITS, *self.desk.refilled(fields, asked), *self.desk.ways(BITS)]
        except (QuipError, ValueError):  # the price says so
            return [gr.skip()] * (2 + len(self.form.recipe) + len(self.form.ways))

    def take_layer(self, event: gr.EventData, *given: Any) -> tuple[Any, Any]:
        """A layer of the map with the bits it has: bits by hand, and the fold they are in."""
        _, fields, _ = self.form.values(given)
        block, _, projection = str(event._data["action"]).partition(" · ")
        try:
            job = self.form.job(self.studio, given)
            target = self.desk.settled(job)
            shared = outlook.bits_of(target, self.studio.expectations.of(job))
            facts = self.studio.facts(job.model)
            named = zip(facts.linear_layers, outlook.lanes(facts), strict=True)
            layer = next(x for x, short in named if (str(x.block), short) == (block, projection))
            known, name = sizing.by_hand(fields["layers"]), f"{layer.block}.{layer.projection}"
            bits = shared[layer.name]
            bits = round(bits, 2) if target.prices.any_rate else bits
            return gr.update(value=sizing.lines({**known, name: bits})), gr.update(open=True)
        except (QuipError, KeyError, StopIteration):  # the price says so
            return gr.skip(), gr.skip()


def _working(now: str, share: float) -> list[Any]:
    left = eta(60 * MINUTES * PATIENCE * (1 - share)) if share < 1 else "a few seconds"
    words = w.note(f"Expecting: {now}. {left[:1].upper()}{left[1:]} left.")
    bar = w.joined([words, w.progress(min(share, 1.0), "Progress of the expectation")])
    return [gr.update(interactive=False), gr.update(visible=True), gr.update(value=bar, visible=True)]


def _idle(progress: Any) -> list[Any]:
    return [gr.update(interactive=True), gr.update(visible=False), progress]
