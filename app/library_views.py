"""The Models tab as markup: models on this computer, suggested ones, results of a search, downloads. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from app import widgets as w
from app.downloads import Download
from app.fmt import UNKNOWN, count, eta, plural, rough, size
from app.library import Entry
from app.suggestions import Suggestion
from quip_engine.errors import QuipError
from quip_engine.hub import Listing
from quip_engine.packed import PackedFacts
from quip_engine.probe import ModelFacts

SHELF = [("Model", "text"), ("Architecture", "text"), ("Parameters", "num"), ("Blocks", "num"), ("Context", "num")]
SHELF += [("Licence", "text"), ("On disk", "num"), ("At 2 bits", "num"), ("Supported", "text"), ("", "act")]
SUGGESTED = [("Model", "text"), ("Parameters", "num"), ("Blocks", "num"), ("Download", "num"), ("At 2 bits", "num")]
SUGGESTED += [("Peak memory", "num"), ("Time", "num"), ("Memory", "text"), ("", "act")]
FOUND = [("Model", "text"), ("Parameters", "num"), ("Size", "num"), ("Licence", "text"), ("Fetched last month", "num")]
FOUND += [("Supported", "text"), ("", "act")]
OFFLINE = "Offline: nothing can be fetched. The switch is in Settings."
FORCED = "Offline by the command line: nothing can be fetched."


def number(value: float | None) -> w.Html:
    return w.keyed(count(value), value)


def weight(value: float | None) -> w.Html:
    return w.keyed(size(value), value)


def named(name: str, note: str) -> w.Html:
    return w.joined([name, w.Html(f' <span class="muted">{w.safe(note)}</span>')])


def shelf(entries: Sequence[Entry]) -> w.Html:
    """Models that are here."""
    rows = [
        [
            named(e.name, e.origin),
            e.family,
            number(e.parameters),
            UNKNOWN if e.blocks is None else e.blocks,
            w.keyed(UNKNOWN if e.context is None else f"{e.context}", e.context),
            e.licence or UNKNOWN,
            weight(e.bytes or None),
            weight(e.small),
            _verdict_of(e),
            _action_of(e),
        ]
        for e in entries
    ]
    return w.table(SHELF, rows, "Models on this computer", "stack")


def _verdict_of(entry: Entry) -> w.Html:
    if entry.supported:
        return w.pill("yes", "yes")
    if entry.packed:
        return w.joined([w.pill("packed already", "done"), _because(entry.packed)])
    return w.joined([w.pill("no", "no"), _because(entry.why)])


def _because(reason: str) -> w.Html:
    return w.tag("span", reason, "because")


def _action_of(entry: Entry) -> w.Html:
    if entry.supported:
        return w.button("Use", f"use:{entry.model}")
    return w.button("Open in Compare", f"compare:{entry.model}") if entry.packed else w.Html("")


def suggested(
    found: Sequence[Suggestion] | None, memory: float, here: Collection[str], busy: Collection[str]
) -> w.Html:
    """Models to fetch. ``here``: names that need not be; ``busy``: those that cannot be started."""
    if found is None:
        return w.note("Working out what each would cost on this computer…")
    rows = []
    for item in found:
        model, facts, costs = item.model, item.facts, item.costs
        note = f"{model.licence}{', to be accepted on its page first' if model.gated else ''}"
        act = w.button("Use", f"use:{model.name}") if model.name in here else _get(model.name, model.name in busy)
        rows.append(
            [
                named(model.name, note),
                number(facts.parameters),
                facts.blocks,
                weight(facts.bytes),
                weight(costs.bytes),
                weight(costs.peak_memory),
                w.keyed(rough(costs.seconds), costs.seconds),
                w.pill(*item.fits(memory)),
                act,
            ]
        )
    return w.table(SUGGESTED, rows, "Suggested models", "stack")


def _get(name: str, blocked: bool) -> w.Html:
    html = w.button("Get", f"get:{name}")
    return w.Html(html.replace("<button", f'<button aria-label="Get {w.safe(name)}"{" disabled" if blocked else ""}'))


def results(found: Sequence[Listing], words: str) -> w.Html:
    """What a search has found."""
    if not found:
        return w.note(f"No model that writes text has “{words}” in its name.")
    rows = [
        [
            named(x.name, "asks for a licence" if x.gated else ""),
            number(x.parameters),
            weight(x.bytes),
            x.licence or UNKNOWN,
            number(x.downloads),
            w.joined([w.pill("no", "no"), _because(x.refusal.message)]) if x.refusal else w.pill("yes", "yes"),
            w.button("Look", f"check:{x.name}"),
        ]
        for x in found
    ]
    return w.table(FOUND, rows, "Models of the hub", "stack")


def downloads(going: Sequence[Download]) -> w.Html:
    """Each download as a bar, with what can be done about it."""
    return w.Html(f'<div class="downloads">{"".join(_download(d) for d in going)}</div>')


def _download(item: Download) -> str:
    kind = {"failed": "failed", "paused": "stopped"}.get(item.state, "")
    share = item.arrived / item.total if item.total else float(item.state == "done")
    banner = w.problem(item.error, f"{item.name} could not be fetched") if item.error else w.Html("")
    buttons = w.joined([w.button(text, f"{action}:{item.name}", css) for text, action, css in _offers(item)])
    head = f"<strong>{w.safe(item.name)}</strong><span>{w.safe(told(item))}</span><div>{buttons}</div>"
    bar = w.progress(min(share, 1.0), item.name, kind)
    return f'<div class="download"><div class="row">{head}</div>{bar}{banner}</div>'


def _offers(item: Download) -> list[tuple[str, str, str]]:
    if item.alive:
        return [("Cancel", "cancel", "")]
    if item.state == "done":
        return [("Use", "use", ""), ("Take off the list", "remove", "")]
    return [("Resume", "get", ""), ("Discard", "remove", "")]


def told(item: Download) -> str:
    """A download in words."""
    sizes = f"{size(item.arrived)} of {size(item.total)}" if item.total else ""
    kept = f" · {sizes} are kept" if item.arrived else ""
    match item.state:
        case "asking":
            return "Asking the hub…"
        case "running":
            pace = f"{size(item.speed)}/s" if item.speed else ""
            left = f"{eta(item.remaining)} left" if item.speed else "estimating…"
            return " · ".join(part for part in (sizes, pace, left) if part)
        case "paused":
            return f"Stopped{kept}"
        case "failed":
            return f"Failed{kept}"
    return f"Done · {size(item.total)}"


def _card(name: str, pill: w.Html, rows: Sequence[tuple[object, object]]) -> w.Html:
    title = w.joined([name, " ", pill])
    return w.joined([w.Html('<div class="verdict">'), w.heading(title, "", 3), w.facts(rows), w.Html("</div>")])


def verdict(facts: ModelFacts) -> w.Html:
    """A checked model that can be quantized."""
    layers = plural(len(facts.linear_layers), "linear layer")
    rows = [
        ("Architecture", facts.architecture),
        ("Parameters", count(facts.parameters)),
        ("Decoder", f"{plural(facts.blocks, 'block')} of width {facts.hidden}, {layers}"),
        ("Size on disk", f"{size(facts.bytes)} in {facts.dtype}"),
        ("Context", f"{facts.context} tokens" if facts.context else UNKNOWN),
        ("Vocabulary", count(facts.vocabulary) + (", head tied to it" if facts.tied else "")),
        ("Chat template", "yes" if facts.chat_template else "no: it continues text"),
        ("Licence", facts.licence or "not stated"),
    ]
    rows += [("Note", message) for code, message in facts.warnings if code != "NO_TEMPLATE"]
    return _card(facts.name, w.pill("can be quantized", "yes"), rows)


def packed_verdict(facts: PackedFacts) -> w.Html:
    """A checked folder that is packed already."""
    packing = facts.packing
    kept = (
        f"{len(facts.kept)} of {plural(len(facts.linear_layers), 'linear layer')} are not packed" if facts.kept else ""
    )
    rows: list[tuple[object, object]] = [
        ("Packed as", f"{packing.format}, {packing.method}"),
        ("Bits per weight", f"{facts.bits_per_weight:.3f}, every stored bit of the packed layers"),
        ("Made from", packing.source or "not stated"),
        ("Architecture", facts.architecture),
        ("Parameters", f"{count(facts.parameters)} of the model it stands for"),
        ("Decoder", plural(facts.blocks, "block")),
        ("Size on disk", size(facts.bytes)),
        ("Licence", facts.licence or "not stated"),
    ]
    rows += [("Kept", kept)] if kept else []
    return _card(facts.name, w.pill("packed already: it runs as it is", "done"), rows)


def listing(found: Listing) -> w.Html:
    """A model of the hub that is not here."""
    refusal: QuipError | None = found.refusal
    rows: list[tuple[object, object]] = [
        ("Architecture", found.architecture),
        ("Parameters", count(found.parameters)),
        (
            "Download",
            f"{size(found.bytes)} in {plural(len(found.files), 'file')}" if found.files else "nothing to fetch",
        ),
        ("Licence", (found.licence or "not stated") + (", to be accepted on its page first" if found.gated else "")),
        ("Fetched", f"{count(found.downloads)} times in the last month"),
    ]
    rows += [("Because", f"{refusal.message} {refusal.hint}")] if refusal else []
    pill = w.pill("cannot be quantized", "no") if refusal else w.pill("can be quantized", "yes")
    return _card(found.name, pill, rows)
