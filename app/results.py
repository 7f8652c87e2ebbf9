"""Results of evaluations as lines of a table, in words, and as files. Pure functions."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.figures.quality import Model
from app.fmt import UNKNOWN, fixed, percent_change, plural, sci
from app.state import short_names
from quip_engine.runs import Run
from quip_engine.runs.evaluation_store import Evaluation

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Result:
    """One measured model. Originals that others were compared with are models, too."""

    evaluation: str
    model: str  # what people call it
    run: str  # that made it, if one did
    folder: str
    original: bool
    method: str
    bits: float | None
    bits_per_weight: float | None
    bytes: int
    text: str
    seqlen: int
    windows: int
    perplexity: float
    perplexity_error: float | None
    original_perplexity: float | None
    original_perplexity_error: float | None
    ratio: float | None
    ratio_error: float | None
    mean_kl: float | None
    mean_kl_error: float | None
    top1_agreement: float | None
    top1_agreement_error: float | None
    when: float

    @property
    def setting(self) -> tuple[str, int, int]:
        """Perplexities can be compared where this is the same."""
        return self.text, self.seqlen, self.windows


def results(rows: Sequence[Evaluation], runs: Sequence[Run]) -> list[Result]:
    """Every measured model: the newest result for each text and cut; settings newest first, in each the best first."""
    made = {str(Path(run.job.out).resolve()): run for run in runs if run.status == "done"}
    found: dict[tuple[Any, ...], Result] = {}
    for row in rows:
        for result in _of(row, made):
            found.setdefault((result.folder, row.content if not result.original else "", *result.setting), result)
    order = list(dict.fromkeys(result.setting for result in found.values()))
    return sorted(found.values(), key=lambda r: (order.index(r.setting), not r.original, r.perplexity))


def _of(row: Evaluation, made: dict[str, Run]) -> list[Result]:
    """The model of an evaluation and, where there is one, its original."""
    result = row.result
    if not result:
        return []
    figures: dict[str, Any] = result["figures"]
    common: dict[str, Any] = {"evaluation": row.id, "text": text_name(row), "when": row.finished or row.created}
    common |= {name: result[name] for name in ("seqlen", "windows")}
    found = [Result(**common, **_model(result["model"], made), **figures)]
    if result["original"]:
        own: dict[str, Any] = dict.fromkeys(figures)
        own |= {"perplexity": figures["original_perplexity"], "perplexity_error": figures["original_perplexity_error"]}
        found.append(Result(**common, **_model(result["original"], made), **own))
    return [r for r in found if r.perplexity is not None]


def _model(facts: dict[str, Any], made: dict[str, Run]) -> dict[str, Any]:
    run = made.get(str(Path(facts["folder"]).resolve()))
    plain = {name: facts[name] for name in ("folder", "method", "bits", "bits_per_weight", "bytes")}
    return {
        **plain,
        "model": run.name if run else facts["name"],
        "run": run.id if run else "",
        "original": not facts["method"],
    }


def text_name(row: Evaluation) -> str:
    return "bundled text" if row.job.text == "bundled" else Path(row.job.text).name


def points(found: Sequence[Result], shown: Evaluation) -> list[Model]:
    """The models that can be set against the one that is shown."""
    setting = next((r.setting for r in found if r.evaluation == shown.id), None)
    return [
        Model(short_name(r), r.bytes, r.perplexity, r.perplexity_error, r.original, _is(r, shown))
        for r in found
        if r.setting == setting
    ]


def _is(result: Result, shown: Evaluation) -> bool:
    return bool(shown.result) and result.folder == shown.result["model"]["folder"]  # type: ignore[index]


def short_name(result: Result) -> str:
    if result.original or result.bits is None:
        return result.model
    return f"{result.method} {result.bits:g}-bit"


# -- in words ----------------------------------------------------------------------------------------------------------


def perplexity(value: float | None, like: float | None = None) -> str:
    """Two decimals, three below ten; a difference has as many as what it is ``like``."""
    size = value if like is None else like
    return fixed(value, 3 if size is not None and size < 10 else 2)


def plus_minus(value: str, error: float | None, digits: int) -> str:
    return value if error is None else f"{value} ± {error:.{digits}f}"


def verdict(row: Evaluation) -> str:
    """What an evaluation has found, in one sentence."""
    result = row.result or {}
    figures, model, original = result["figures"], result["model"], result["original"]
    if not original:
        value = plus_minus(perplexity(figures["perplexity"]), figures["perplexity_error"], 2)
        return f"{model['name']} has a perplexity of {value} on {text_name(row)}."
    parts = [_cost(figures, model, original), _where(result["layers"])]
    if figures["top1_agreement"] is not None:
        parts.append(f"the models agree on {100 * figures['top1_agreement']:.0f} % of tokens")
    return "; ".join(filter(None, parts)) + "."


def _cost(figures: Figures, model: dict[str, Any], original: dict[str, Any]) -> str:
    what = (
        f"{model['bits']:g} {'bit costs' if model['bits'] == 1 else 'bits cost'}"
        if model["bits"]
        else f"{model['name']} costs"
    )
    new, old = figures["perplexity"] or 0.0, figures["original_perplexity"] or 1.0
    change = f"{perplexity(old)} → {perplexity(new)}, {percent_change(new, old)}"
    error = figures["ratio_error"]
    if error is not None and abs(new / old - 1) < 2 * error:
        return f"{what} {original['name']} no more perplexity than this text can show ({change}, ± {100 * error:.1f} %)"
    if new < old:
        return f"{what} {original['name']} nothing here: perplexity falls by {perplexity(old - new, old)} ({change})"
    return f"{what} {original['name']} {perplexity(new - old, old)} of perplexity ({change})"


def _where(layers: list[dict[str, Any]]) -> str:
    """Which block, and which layer of it, does most."""
    total = sum(layer["kl"] for layer in layers)
    if not layers or total <= 0:
        return ""
    names = layer_names(layers)
    worst = max(layers, key=lambda layer: layer["kl"])
    blocks: dict[int, float] = {}
    for layer in layers:
        blocks[layer["block"]] = blocks.get(layer["block"], 0.0) + layer["kl"]
    block, kl = max(blocks.items(), key=lambda item: item[1])
    most = "most" if kl > total / 2 else "the largest part"
    if worst["block"] == block:
        inside = f", {names[worst['name']]} above all"
    else:
        inside = f", and block {worst['block']} {names[worst['name']]} is the worst single layer"
    return f"{most} of it arises in block {block} ({100 * kl / total:.0f} %{inside})"


def layer_names(layers: list[dict[str, Any]]) -> dict[str, str]:
    """Short names of the projections by module path."""
    return short_names([{"name": layer["name"], "block": layer["block"]} for layer in layers])


def findings(row: Evaluation) -> list[str]:
    """What the figures show, a sentence each: the same as the plots say."""
    result = row.result or {}
    found = []
    if len(places := result["positions"]) >= 4:
        quarter = len(places) // 4
        first, last = (sum(p["kl"] for p in part) / quarter for part in (places[:quarter], places[-quarter:]))
        peak = max(places, key=lambda p: p["kl"])
        change = percent_change(first, last) if last > 0 else "0 %"
        mean = sum(p["kl"] for p in places) / len(places)
        at = f"{peak['first']} to {peak['last']}" if peak["first"] < peak["last"] else f"{peak['first']}"
        stands_out = peak["kl_error"] is not None and peak["kl"] - mean > 4 * peak["kl_error"]
        more = f"it peaks after {at} tokens ({sci(peak['kl'])})" if stands_out else "no place in it stands out"
        found.append(f"Along the text: in the first quarter of a window KL is {change} against the last; {more}.")
    if blocks := result["blocks"]:
        first, last = blocks[0], blocks[-1]
        found.append(
            f"Block by block: hidden states are off by {100 * first['error']:.1f} % after block 0 and by "
            f"{100 * last['error']:.1f} % after block {last['block']} (cosine {last['cosine']:.3f})."
        )
    if layers := result["layers"]:
        names, whole = layer_names(layers), result["figures"]["mean_kl"]
        total = sum(layer["kl"] for layer in layers)
        worst = sorted(layers, key=lambda layer: -layer["kl"])[:3]
        list_of = ", ".join(f"block {x['block']} {names[x['name']]} {sci(x['kl'])}" for x in worst)
        found.append(
            f"Layer by layer: alone they add up to KL {sci(total)}, together they make {sci(whole)}; "
            f"the worst are {list_of}."
        )
    for task in result["tasks"]:
        against = "" if task["original"] is None else f", the original {100 * task['original']:.1f} %"
        value = plus_minus(f"{100 * task['value']:.1f}", task["error"] and 100 * task["error"], 1)
        found.append(
            f"{task['task']}: {task['metric']} {value} %{against}, on at most {plural(task['questions'], 'question')}."
        )
    return [*found, *result["notes"]]


# -- files -------------------------------------------------------------------------------------------------------------


def results_csv(found: Sequence[Result]) -> str:
    """The table with full precision."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*Result.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    for result in found:
        writer.writerow({**asdict(result), "when": _iso(result.when)})
    return out.getvalue()


def results_json(found: Sequence[Result], rows: Sequence[Evaluation]) -> str:
    """The table, and everything each evaluation has found."""
    table = [{**asdict(result), "when": _iso(result.when)} for result in found]
    details = [{"id": row.id, "job": row.job.to_json(), "result": row.result} for row in rows if row.result]
    return json.dumps({"results": table, "evaluations": details}, indent=2, ensure_ascii=False)


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(when))


def share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f} %"
