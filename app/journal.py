"""The log of a run in words: one event, one or two lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app import widgets as w
from app.fmt import clock, count, duration, plural, sci, size
from app.state import RunView
from app.tuning import log_lines
from quip_engine import events

LIVE_LINES, ALL_LINES = 16, 500  # lines shown while the log grows, and afterwards


def log(view: RunView) -> w.Html:
    lines = [(when, *line) for when, event in view.log for line in words(event, view)]
    shown = lines[-(LIVE_LINES if view.run.alive else ALL_LINES) :]
    items = "".join(
        f'<li class="{kind}"><time>{clock(when, seconds=True)}</time><span>{w.safe(text)}</span></li>'
        for when, kind, text in shown
    )
    return w.Html(f'<ol class="log" tabindex="0" aria-label="Log">{items}</ol>')


def words(event: events.Event, view: RunView) -> Iterator[tuple[str, str]]:
    """An event as lines of the log: (info or warn, text)."""
    yield from (("info", line) for line in log_lines(event))
    match event:
        case events.RunStarted():
            size_of = f"{plural(event.blocks, 'block')}, {plural(len(event.layers), 'linear layer')}"
            yield "info", f"{Path(event.model).name}: {size_of}, on {event.device}"
            if event.resumed_at:
                yield "info", f"goes on after block {event.resumed_at - 1}"
        case events.PhaseChanged():
            yield "info", event.phase + (f": {event.note}" if event.note else "")
        case events.Warned():
            yield "warn", event.message
        case events.BlockCalibrated():
            seen = f"from {count(event.tokens)} tokens in {duration(event.seconds)}"
            yield "info", f"block {event.block}: {plural(len(event.groups), 'Hessian')} {seen}"
        case events.LayerQuantized():
            name = f"block {event.block} {view.lanes.get(event.name, event.projection)}"
            change = f"{event.mu_w_before:.1f} → {event.mu_w_after:.1f}"
            yield "info", f"{name}: loss {sci(event.rel_proxy)}, μ(W) {change}"
            for note in event.notes:
                yield "warn", f"{name}: {note}"
        case events.LayerSkipped():
            yield "warn", f"{event.name} stays as it is: {event.reason}"
        case events.BlockSaved():
            yield "info", f"block {event.block} saved ({size(event.bytes)})"
        case events.RunFinished():
            yield "info", f"finished: {event.bits_per_weight:.2f} bits per weight, {size(event.bytes)}"
        case events.RunStopped():
            yield "info", f"stopped; {plural(event.block, 'block')} saved"
        case events.RunFailed():
            yield "warn", f"{event.message} {event.hint}"
