"""The Runs tab in markup: the table, the chosen run, the queue, runs against each other. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app import results as told
from app import views
from app import widgets as w
from app.fmt import UNKNOWN, clock, duration, fixed, plural, sci, size
from app.forms import command
from app.page import Shelf
from app.results import Result
from app.sizing import asked, settings
from app.state import RunView
from quip_engine.runs import Run
from quip_engine.runs.removal import Footprint
from quip_engine.runs.sharing import Transfer
from quip_engine.runs.store import usual_name

MOST = 4  # runs in one figure
COLUMNS = [("Run", "text"), ("Model", "text"), ("Method", "text"), ("State", "text"), ("Bits", "num"), ("Loss", "num")]
COLUMNS += [("Perplexity", "num"), ("Size", "num"), ("Time", "num"), ("", "act")]


def label(run: Run) -> str:
    """``run 13``, or the name a person gave it."""
    return run.name if named(run) else run.id.replace("-", " ")


def named(run: Run) -> bool:
    return run.name != usual_name(run.job)


def matching(runs: Sequence[Run], words: str) -> list[Run]:
    """The runs whose text has every word, in any case."""
    asked = words.lower().split()
    return [run for run in runs if all(word in _searched(run) for word in asked)]


def _searched(run: Run) -> str:
    state = views.WORDS.get(run.status, run.status)
    parts = [run.id, run.id.replace("-", " "), run.name, run.job.model, run.job.recipe.method, state, run.note]
    return " ".join([*parts, run.job.title, *run.tags]).lower()


def measured(found: Sequence[Result]) -> dict[str, Result]:
    """The newest result of each run by its id."""
    return {result.run: result for result in sorted(found, key=lambda r: r.when) if result.run}


def table(runs: Sequence[Run], live: RunView | None, results: Mapping[str, Result], shelf: Shelf) -> w.Html:
    """One line a run, newest first; that of ``shelf.run`` is marked."""
    rows = [_row(run, live if live and live.run.id == run.id else None, results.get(run.id), shelf) for run in runs]
    return w.table(COLUMNS, rows, "Runs, newest first", "stack")


def _row(run: Run, live: RunView | None, result: Result | None, shelf: Shelf) -> list[object]:
    made = run.result or {}
    bits = made.get("bits_per_weight") or (live.bits_per_weight if live else None)
    loss = made.get("mean_rel_proxy") or (live.mean_loss if live else None)
    seconds = worked(run)
    shown = told.perplexity(result.perplexity) if result else UNKNOWN
    return [
        _name(run, shelf),
        views.model_name(run),
        run.job.recipe.method,
        views.status_pill(run.status, sentence=False),
        w.keyed(fixed(bits, 2), bits),
        w.keyed(sci(loss), loss),
        w.keyed(shown, result.perplexity if result else None),
        w.keyed(size(made.get("bytes")), made.get("bytes")),
        w.keyed(duration(seconds), seconds),
        _next(run),
    ]


def _next(run: Run) -> w.Html:
    if run.status == "queued":
        return w.Html("")
    return w.button("Resume", f"resume:{run.id}") if run.resumable else w.button("Open", f"open:{run.id}")


def _name(run: Run, shelf: Shelf) -> w.Html:
    """The box that takes a run into the comparison, its name as a button, and its tags."""
    marked = str(run.id in shelf.marked).lower()
    number, said = run.id.rpartition("-")[2], w.safe(run.id.replace("-", " "))
    box = (
        f'<button type="button" class="box" role="checkbox" aria-checked="{marked}" data-action="mark:{run.id}" '
        f'aria-label="Take {said} into the comparison"></button>'
    )
    name = f'<button type="button" class="plain" data-action="select:{run.id}">{w.safe(label(run))}</button>'
    css = ' class="chosen"' if run.id == shelf.run else ""
    return w.Html(f'<span{css} data-key="{number}">{box}{name}{tags(run)}</span>')


def tags(run: Run) -> w.Html:
    return w.joined([w.tag("span", tag, "tag") for tag in run.tags])


def worked(run: Run) -> float | None:
    """Seconds of the run, or of its last worker where it is not done."""
    if run.result:
        return float(run.result["seconds"])
    return run.finished - run.started if run.finished and run.started and run.finished > run.started else None


def heading(runs: Sequence[Run], shown: Sequence[Run]) -> w.Html:
    total = sum(run.result["bytes"] for run in runs if run.result)
    text = (
        f"{plural(len(runs), 'run')}; the models they made take {size(total)}." if total else plural(len(runs), "run")
    )
    return w.heading("Runs", f"{len(shown)} of {text}" if len(shown) != len(runs) else text)


# -- the chosen run ----------------------------------------------------------------------------------------------------


def card(run: Run, view: RunView | None, result: Result | None) -> w.Html:
    """Facts, note and tags of one run."""
    when = clock(run.finished or run.started or run.created)
    title = w.joined([label(run), tags(run)])
    below = " · ".join([*([run.id.replace("-", " ")] if named(run) else []), views.model_name(run), when])
    note = w.Html(f'<p class="run-note">{w.safe(run.note)}</p>') if run.note else w.Html("")
    return w.joined([w.heading(title, below), w.facts(facts(run, view, result)), note])


def facts(run: Run, view: RunView | None, result: Result | None) -> list[tuple[object, object]]:
    """Label and value; what is not known yet is left out, except the figures everybody looks for."""
    made, text = run.result or {}, run.job.calibration
    loss = made.get("mean_rel_proxy") or (view.mean_loss if view else None)
    bits = made.get("bits_per_weight") or (view.bits_per_weight if view else None)
    found: list[tuple[object, object]] = [
        ("State", views.status_pill(run.status, sentence=False)),
        ("Recipe", views.recipe_line(view) if view else run.job.recipe.method),
        ("Bits per weight", fixed(bits, 3)),
        ("Mean proxy loss", sci(loss)),
    ]
    if result:
        shown = told.plus_minus(told.perplexity(result.perplexity), result.perplexity_error, 2)
        found.append(("Perplexity", shown))
        found += [("KL to the original", sci(result.mean_kl))] if result.mean_kl is not None else []
    else:
        found.append(("Perplexity", "not measured"))
    found += [("Size", size(made.get("bytes"))), ("Time", duration(worked(run)))]
    found.append(("Calibration", f"{Path(text.source).name}, {text.samples} × {text.seqlen} tokens"))
    found += settings(run.job).items()
    found.append(("Seed", run.job.seed))
    if run.error:
        found.append(("Failed with", w.tag("code", run.error.get("error", ""))))
    found.append(("Model folder", w.tag("span", views.checkpoint(run), "path-text")))
    return found


def measured_rows(result: Result) -> list[tuple[str, str]]:
    """Every figure of an evaluation with its error."""
    rows = [("Perplexity", told.plus_minus(told.perplexity(result.perplexity), result.perplexity_error, 3))]
    if result.original_perplexity is not None:
        shown = told.perplexity(result.original_perplexity)
        rows.append(("Perplexity of the original", told.plus_minus(shown, result.original_perplexity_error, 3)))
    if result.mean_kl is not None:
        rows.append(("KL to the original, nats per token", sci(result.mean_kl)))
    if result.top1_agreement is not None:
        rows.append(("Same most likely token", told.share(result.top1_agreement)))
    return rows


def told_sizes(run: Run, print_: Footprint) -> w.Html:
    """What deleting takes away, before it does."""
    log = f"{size(print_.directory)}: log, events and unfinished work."
    model = (
        f"{size(print_.checkpoint)} in {print_.folder}" if print_.checkpoint is not None else f"stays: {print_.kept}"
    )
    rows = [("Run", log), ("Model", w.tag("span", model, "path-text"))]
    return w.joined([w.heading(f"Delete {label(run)}?", "This cannot be undone.", 3), w.facts(rows)])


def transfer(now: Transfer | None) -> w.Html:
    """Where the export or push of a run stands; empty where there was none."""
    if now is None:
        return w.Html("")
    what = "Export" if now.kind == "export" else "Push"
    where = w.tag("code", now.address or now.target)
    if now.status == "done":
        return w.banner("info", f"{what} finished.", w.joined(["It is at ", where]), "")
    if now.status == "working":
        share = now.done / now.total if now.total else 0.0
        text = f"{size(now.done)} of {size(now.total)}" if now.total else "reading the files"
        bar = w.progress(share, f"{what} progress")
        return w.joined([w.note(w.joined([f"{what} to ", where, f": {text}"])), bar])
    if now.status == "failed" and now.error:
        error = now.error
        return w.banner(
            "error", error["message"], "", error["hint"], code=error["error"], details=error.get("details", "")
        )
    ended = "was cancelled" if now.status == "cancelled" else "ended without a word"
    return w.banner(
        "warn", f"{what} {ended}.", w.joined(["It went to ", where]), "Nothing half-made is left; start it again."
    )


# -- the queue ---------------------------------------------------------------------------------------------------------


def queue(waiting: Sequence[Run], holders: Sequence[Run], busy: bool) -> w.Html:
    """Runs that wait, the next one first, and what they wait for."""
    columns = [("Next", "text"), ("Model", "text"), ("Method", "text"), ("Asked", "num"), ("", "act")]
    rows = [
        [
            w.Html(f"{place}. {w.safe(label(run))}"),
            views.model_name(run),
            run.job.recipe.method,
            asked(run.job),
            w.joined([_arrow("up", run, place > 1), _arrow("down", run, place < len(waiting)), _remove(run)]),
        ]
        for place, run in enumerate(waiting, 1)
    ]
    return w.joined([w.heading("Queue", _waits(waiting, holders, busy), 3), w.table(columns, rows, "Queue", "stack")])


def _waits(waiting: Sequence[Run], holders: Sequence[Run], busy: bool) -> str:
    count = f"{plural(len(waiting), 'run')} to come."
    if busy:
        return f"{count} The next one starts by itself when the one at work is done, also with this page closed."
    if holders:
        names = ", ".join(f"{label(run)} is {run.status}" for run in holders)
        return f"{count} The queue waits because {names}: resume, or let it go on."
    return f"{count} Nothing is at work now."


def _arrow(way: str, run: Run, possible: bool) -> w.Html:
    sign = {"up": "↑", "down": "↓"}[way]
    off = "" if possible else " disabled"
    name = f"Move {w.safe(label(run))} {way}"
    return w.Html(
        f'<button type="button" class="mini" data-action="{way}:{run.id}" aria-label="{name}"{off}>{sign}</button>'
    )


def _remove(run: Run) -> w.Html:
    return w.button("Remove", f"remove:{run.id}")


# -- runs against each other -------------------------------------------------------------------------------------------


def differences(runs: Sequence[Run], results: Mapping[str, Result]) -> w.Html:
    """Settings in which the runs differ, then their figures; what all share is one sentence."""
    settings = [_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for found in settings for key in found))
    differ = [key for key in keys if len({found.get(key, UNKNOWN) for found in settings}) > 1]
    rows: list[list[object]] = [[key, *(found.get(key, UNKNOWN) for found in settings)] for key in differ]
    rows += [[name, *(figure(run, results.get(run.id)) for run in runs)] for name, figure in FIGURES.items()]
    marks = [w.Html(f'<i class="mark several-{k}"></i> {w.safe(label(run))}') for k, run in enumerate(runs)]
    columns: list[tuple[str, str]] = [("", "text"), *((mark, "num") for mark in marks)]
    same = (
        "They differ in nothing but their results."
        if not differ
        else f"{len(keys) - len(differ)} other settings are equal."
    )
    return w.joined([w.note(same), w.table(columns, rows, "Differences between the runs")])


def _settings(run: Run) -> dict[str, str]:
    """Every setting of a job as text, by the name a person would use."""
    job, recipe, text = run.job, run.job.recipe, run.job.calibration
    found = {"Model": views.model_name(run), "Method": recipe.method, **settings(job)}
    found |= {slot: str(getattr(recipe, slot) or "of the preset") for slot in ("transform", "codebook", "rounding")}
    found |= {key.replace("_", " "): json.dumps(value) for key, value in recipe.options.items()}
    found |= {"Calibration": Path(text.source).name, "Samples": str(text.samples), "Tokens each": str(text.seqlen)}
    return {
        key[:1].upper() + key[1:]: value
        for key, value in {**found, "Seed": str(job.seed), "Device": job.device}.items()
    }


FIGURES: dict[str, Any] = {
    "Bits per weight": lambda run, _: fixed((run.result or {}).get("bits_per_weight"), 3),
    "Mean proxy loss": lambda run, _: sci((run.result or {}).get("mean_rel_proxy")),
    "Perplexity": lambda _, result: told.perplexity(result.perplexity) if result else UNKNOWN,
    "KL to the original": lambda _, result: sci(result.mean_kl) if result else UNKNOWN,
    "Size": lambda run, _: size((run.result or {}).get("bytes")),
    "Time": lambda run, _: duration(worked(run)),
}


def command_of(run: Run) -> w.Html:
    """The command line of a run, to copy."""
    return w.Html(f'<pre tabindex="0"><code>{w.safe(command(run.job))}</code></pre>')
