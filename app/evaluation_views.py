"""What an evaluation looks like: its view and its results as markup and figures. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import widgets as w
from app.evaluations import EvaluationView
from app.figures import quality as figures
from app.figures.base import Lanes
from app.fmt import UNKNOWN, clock, eta, fixed, percent_change, plural, sci, size
from app.results import Result, findings, layer_names, perplexity, plus_minus, points, share, text_name, verdict
from quip_engine.errors import QuipError
from quip_engine.runs import Run
from quip_engine.runs.evaluation_store import Evaluation

PLOTS = ("size", "along", "blocks", "layers")
SHOWN_WORST = 10  # tokens

# -- while it works ----------------------------------------------------------------------------------------------------


def live(view: EvaluationView, now: float) -> w.Html:
    """Where a working evaluation is, and what it has found so far."""
    started, latest = view.started, view.scored[-1] if view.scored else None
    name = view.row.name
    title = f"Stopping the evaluation of {name}" if view.row.status == "stopping" else f"Evaluating {name}"
    if started is None:
        return w.heading(title, "Loading the models…")
    against = f"against {Path(started.against).name}" if started.against else "alone"
    cut = f"{plural(started.windows, 'window')} of {started.seqlen} tokens of {text_name(view.row)}"
    figures_now = latest.figures if latest else {}
    numbers = w.stats(
        [
            ("Windows", _of(len(view.scored), started.windows), f"of {started.seqlen} tokens"),
            ("Left", eta(view.remaining(now)), _doing(view)),
            ("Perplexity so far", *_with_error(figures_now, "perplexity")),
            ("Original so far", *_with_error(figures_now, "original_perplexity")),
            ("Mean KL so far", sci(figures_now.get("mean_kl")), "nats per token"),
            ("Same top token", share(figures_now.get("top1_agreement")), "so far"),
        ]
    )
    bar = w.progress(view.share, "Evaluation progress")
    return w.joined([w.heading(title, f"{against} · {cut} · on {started.device}"), bar, numbers])


def _of(done: int, total: int) -> w.Html:
    return w.Html(f'{done}<span class="muted"> / {total}</span>')


def _doing(view: EvaluationView) -> str:
    assert view.started is not None
    if len(view.scored) < view.started.windows:
        return "scoring the text"
    if view.layers < view.passes:
        return f"layer {view.layers % max(len(view.started.layers), 1) + 1} of {len(view.started.layers)} alone"
    return "tasks" if len(view.tasks) < len(view.started.tasks) else "finishing"


def _with_error(found: dict[str, float | None], name: str) -> tuple[str, str]:
    value, error = found.get(name), found.get(f"{name}_error")
    return perplexity(value), UNKNOWN if error is None else f"± {error:.2f}"


def convergence(view: EvaluationView) -> figures.Figure:
    """The running figure; empty before the second window."""
    if view.started is None or len(view.scored) < 2:
        return {}
    scored = [(event.windows, event.figures) for event in view.scored]
    return figures.convergence(scored, view.started.windows, view.row.id)


def trouble(row: Evaluation | None, view: EvaluationView | None) -> w.Html | None:
    """The banner of the newest evaluation where it did not end as it should."""
    if row is None or row.status not in ("failed", "interrupted"):
        return None
    what = f"{row.name} could not be evaluated."
    if row.status == "interrupted":
        why = "Its process ended without a word: the computer slept, restarted, or ended it to free memory."
        return w.banner("error", what, why, "Measure it again.", code="WORKER_DIED")
    error = row.error or {}
    details = view.failed.details if view and view.failed else ""
    return w.problem(
        QuipError(error.get("error", "FAILED"), error.get("message", ""), error.get("hint", ""), details), what
    )


def strip(view: EvaluationView | None, now: float) -> w.Html | None:
    """The working evaluation in one line, for the strip; None while none works."""
    if view is None or not view.row.alive:
        return None
    words = "loading the models"
    if view.started:
        left = view.remaining(now)
        words = f"window {len(view.scored)} of {view.started.windows}, " + (f"{eta(left)} left" if left else eta(left))
    what = w.joined([w.tag("b", view.row.name), words], " · ")
    bar = w.progress(view.share, "Evaluation progress")
    pill = w.pill("Evaluating", "running")
    return w.Html(f'<div class="job">{pill}<span class="what num">{what}</span>{bar}</div>')


def spoken(view: EvaluationView | None) -> str:
    """What a screen reader hears of a working evaluation; nothing while none works."""
    return f"Evaluating {view.row.name}" if view is not None and view.row.alive else ""


# -- when it is done ---------------------------------------------------------------------------------------------------


def outcome(row: Evaluation) -> w.Html:
    """The verdict, its numbers, and what the plots show in words."""
    result = row.result or {}
    said, model, original = result["figures"], result["model"], result["original"]
    value = plus_minus(perplexity(said["perplexity"]), said["perplexity_error"], 2)
    cut = f"{plural(result['windows'], 'window')} of {result['seqlen']} tokens of {text_name(row)}"
    tiles: list[tuple[object, object, object]] = [("Perplexity", value, f"at {result['seqlen']} tokens")]
    if original:
        base = plus_minus(perplexity(said["original_perplexity"]), said["original_perplexity_error"], 2)
        change = percent_change(said["perplexity"], said["original_perplexity"])
        within = "" if said["ratio_error"] is None else f"± {100 * said['ratio_error']:.1f} %, same windows"
        tiles += [("Original", base, original["name"]), ("Change", change, within)]
        kl_error = said["mean_kl_error"]
        tiles.append(
            ("Mean KL", sci(said["mean_kl"]), "nats per token" if kl_error is None else f"± {sci(kl_error)} nats")
        )
        tiles.append(("Same top token", share(said["top1_agreement"]), "model and original"))
    smaller = (
        f"{original['bytes'] / model['bytes']:.1f} × smaller" if original and model["bytes"] else "weights on disk"
    )
    tiles.append(("Size", size(model["bytes"]), smaller))
    when = f"{row.id.replace('-', ' ')} · {cut} · {clock(row.finished)}"
    words = "".join(f"<li>{_led(sentence)}</li>" for sentence in findings(row))
    told = w.Html(f'<ul class="findings">{words}</ul>') if words else ""
    return w.joined([w.heading(verdict(row), when), w.stats(tiles), told])


def _led(sentence: str) -> w.Html:
    """A sentence whose first words, up to a colon, say what it is about."""
    about, colon, rest = sentence.partition(": ")
    return w.joined([w.tag("b", about), " ", rest]) if colon else w.safe(sentence)


def plots(row: Evaluation, found: Sequence[Result]) -> dict[str, figures.Figure]:
    """The figures of a finished evaluation; empty where there is nothing to draw."""
    result = row.result or {}
    drawn = {"size": figures.quality(points(found, row), row.id)}
    if result["positions"]:
        drawn["along"] = figures.along_text(result["positions"], row.id)
    if result["blocks"]:
        drawn["blocks"] = figures.block_damage(result["blocks"], row.id)
    if layers := result["layers"]:
        names = layer_names(layers)
        lanes = Lanes(tuple(dict.fromkeys(names.values())), 1 + max(layer["block"] for layer in layers))
        values = {(names[layer["name"]], layer["block"]): layer["kl"] for layer in layers}
        drawn["layers"] = figures.layer_damage(values, lanes, row.id)
    return {name: drawn.get(name, {}) for name in PLOTS}


def worst(row: Evaluation) -> w.Html:
    """The tokens at which the prediction moved most, in their context."""
    columns = [("Context", "text"), ("Original says", "text"), ("Small model says", "text"), ("The text has", "text")]
    rows = []
    for token in (row.result or {})["worst"][:SHOWN_WORST]:
        said = [
            _said(
                token[who], token[f"{who}_probability"], differ=who == "model" and token["model"] != token["original"]
            )
            for who in ("original", "model")
        ]
        context = w.Html(f'<span class="context">{w.safe("…" + _visible(token["context"][-80:]))}</span>')
        rows.append([context, *said, _token(token["text"]), sci(token["kl"])])
    return w.table([*columns, ("KL", "num")], rows, "Tokens with the largest KL", "stack")


def _said(text: str, probability: float, *, differ: bool) -> w.Html:
    chance = w.tag("span", f" {100 * probability:.0f} %", "muted")
    return w.tag("span", w.joined([_token(text, "differs" if differ else ""), chance]))


def _token(text: str, css: str = "") -> w.Html:
    return w.tag("code", _visible(text) or UNKNOWN, css)


def _visible(text: str) -> str:
    """Line breaks and spaces at the ends as signs."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


COLUMNS = [
    ("Model", "text"),
    ("Bits per weight", "num"),
    ("Size", "num"),
    ("Perplexity", "num"),
    ("To original", "num"),
]
COLUMNS += [("Mean KL", "num"), ("Same top token", "num"), ("Text", "text"), ("Measured", "text"), ("", "act")]


def table(found: Sequence[Result], shown: Evaluation | None, missing: Sequence[Run]) -> w.Html:
    """Every measured model, then the finished runs that nobody has measured."""
    rows = []
    for result in found:
        name = w.joined([result.model, w.Html(f' <span class="muted">{w.safe(_origin(result))}</span>')])
        value = w.tag("span", w.joined([perplexity(result.perplexity), _error(result.perplexity_error)]))
        cut = f"{result.text}, {result.windows} × {result.seqlen}"
        act: object = w.button("Show", f"show:{result.evaluation}")
        if shown and shown.id == result.evaluation:
            act = w.tag("span", "shown", "muted")
        rows.append(
            [
                *(name, fixed(result.bits_per_weight, 2), size(result.bytes), value, _change(result)),
                *(sci(result.mean_kl), share(result.top1_agreement), cut, clock(result.when), act),
            ]
        )
    for run in missing:
        name = w.joined([run.name, w.Html(f' <span class="muted">{w.safe(run.id.replace("-", " "))}</span>')])
        bits, bytes_ = ((run.result or {}).get(key) for key in ("bits_per_weight", "bytes"))
        act = w.button("Measure", f"measure:{run.job.out}")
        rows.append([name, fixed(bits, 2), size(bytes_), *[UNKNOWN] * 4, "not measured yet", UNKNOWN, act])
    return w.table(COLUMNS, rows, "Results of all models", "stack")


def _origin(result: Result) -> str:
    return result.run.replace("-", " ") if result.run else "original" if result.original else "folder"


def _error(error: float | None) -> w.Html:
    return w.Html("") if error is None else w.Html(f' <span class="muted">± {error:.2f}</span>')


def _change(result: Result) -> object:
    if result.original_perplexity is None:
        return UNKNOWN
    delta = result.perplexity - result.original_perplexity
    text = f"{'−' if delta < 0 else '+'}{perplexity(abs(delta), result.original_perplexity)}"
    rest = f" ({percent_change(result.perplexity, result.original_perplexity)})"
    return w.tag("span", w.joined([w.tag("span", text, "up" if delta > 0 else "down"), w.tag("span", rest, "muted")]))


def empty() -> w.Html:
    text = "Choose a model above. A finished run is compared with the original it was made from."
    return w.empty("Nothing has been measured yet", text)


def unmeasured(runs: Sequence[Run], found: Sequence[Result]) -> list[Run]:
    """Finished runs without a result."""
    known: set[Any] = {result.run for result in found}
    return [run for run in runs if run.id not in known]
