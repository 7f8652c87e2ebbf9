"""``quantize``: start or resume a run, follow it, and report what it made.

The work is done by a worker process that outlives this one. Ctrl-C asks it to stop after the current layer; a second
Ctrl-C leaves it to itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from quip_engine import events
from quip_engine.commands.budget_args import add_budget_arguments, budget_config
from quip_engine.commands.model_args import check_name
from quip_engine.commands.recipe_args import RecipeFile, add_recipe_arguments, recipe_config
from quip_engine.commands.tuning_args import add_tuning_arguments, tuning_config, tuning_words
from quip_engine.config import DEVICES, BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.files import check_output
from quip_engine.runs import Run, Store, Tail, pause, resume, settle, start

POLL_SECONDS = 0.1


def add_parser(subparsers: Any) -> None:
    calibration = CalibrationConfig()
    parser = subparsers.add_parser("quantize", help="quantize a model folder into a packed checkpoint")
    parser.add_argument("model", metavar="MODEL", help="folder of a Hugging Face model, or a hub id")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make; must not exist or be empty")
    text = "a saved recipe: method, parts, calibration and seed; flags behind it win"
    parser.add_argument("--recipe", action=RecipeFile, metavar="FILE", help=text)
    text = "the best we know at this size: sets method, tuning and embeddings; for --bits, --size or --fits"
    parser.add_argument("--best", action="store_true", help=text)
    add_recipe_arguments(parser)
    add_budget_arguments(parser)
    parser.add_argument("--calibration", default=calibration.source, metavar="NAME|FILE", help="calibration text")
    text = f"calibration windows (default: {calibration.samples}; --best: more, where there is room)"
    parser.add_argument("--samples", type=int, help=text)
    parser.add_argument("--seqlen", type=int, default=calibration.seqlen, help="tokens of each window")
    add_tuning_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    share = JobConfig.fallbacks
    parser.add_argument("--fallbacks", type=float, default=share, metavar="SHARE", help="of layers, before a run fails")
    parser.add_argument("--force", action="store_true", help="start although disk or memory seem too small")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished run that writes to DIR")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    job = JobConfig(
        model=_absolute_if_folder(options.model),
        out=str(Path(options.out).absolute()),
        recipe=recipe_config(options),
        calibration=_calibration(options),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        fallbacks=options.fallbacks,
        force=options.force,
        tuning=tuning_config(options),
        budget=budget_config(options),
    )
    if options.best:
        job = _best(job, options.method)
        if options.samples is not None:
            job = replace(job, calibration=_calibration(options))
    if not options.resume:
        _check(job)
        current = start(job)
        return _follow(current, Tail(current.directory))
    unfinished = _unfinished(job)
    tail = Tail(unfinished.directory, from_end=True)
    return _follow(resume(unfinished.id, force=job.force), tail)


def _calibration(options: argparse.Namespace) -> CalibrationConfig:
    samples = CalibrationConfig.samples if options.samples is None else options.samples
    return CalibrationConfig(_absolute_if_folder(options.calibration), samples, options.seqlen)


def _best(job: JobConfig, method: str | None) -> JobConfig:
    """The job with everything chosen that is not asked. Raises ``BAD_SETTING`` where it is chosen already."""
    bits = None if method else RecipeConfig(bits=job.recipe.bits)
    free = replace(job.budget, size=0, fits=0, context=BudgetConfig.context, layers={})
    for name, value, usual in (
        ("method", job.recipe, bits),
        ("allocation", free, BudgetConfig()),
        ("tune", job.tuning, TuningConfig()),
    ):
        if value != usual:
            fail("BAD_SETTING", field=f"--best with {name}", value="both", allowed="one of the two")
    check_name(job.model)
    from quip_engine.best import best_job  # noqa: PLC0415 - torch
    from quip_engine.probe import probe  # noqa: PLC0415

    return best_job(job, probe(job.model))


def _check(job: JobConfig) -> None:
    """Tell what is wrong before a worker is started; what can be told without heavy imports comes first."""
    check_name(job.model)
    check_output(Path(job.out), Path(job.model))
    from quip_engine.methods.mixing import resolve_mixed  # noqa: PLC0415 - torch

    resolve_mixed(job.recipe)
    from quip_engine.probe import probe  # noqa: PLC0415

    probe(job.model)
    from quip_engine.plan import make_plan  # noqa: PLC0415 - transformers
    from quip_engine.room import check_room  # noqa: PLC0415
    from quip_engine.tuning.cost import check_memory  # noqa: PLC0415

    plan = make_plan(job)
    if not job.force:
        check_room(plan)
    check_memory(plan)


def _absolute_if_folder(name: str) -> str:
    """A path that exists is kept independent of the folder it was typed in; names of the hub stay as they are."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _unfinished(job: JobConfig) -> Run:
    """The newest unfinished run for this output folder; it must have been started with the same settings."""
    found = next((r for r in Store().list() if r.job.out == job.out and (r.resumable or r.alive)), None)
    if found is None:
        fail("NOTHING_TO_RESUME", path=job.out)
    before, now = asdict(found.job), asdict(job)
    if changed := [key for key in now if before[key] != now[key] and key != "force"]:
        fail("RESUME_MISMATCH", fields=", ".join(changed))
    return found


def _follow(current: Run, tail: Tail) -> dict[str, Any]:
    """Print events as they come until the worker is done; returns the result."""
    store, asked = Store(), False
    while True:
        try:
            alive = store.get(current.id).alive  # asked before reading, so that the last events are not missed
            for record in tail.read():
                if text := _words(events.from_json(record)):
                    print(text, file=sys.stderr)
            if not alive:
                settle()
                return _outcome(store.get(current.id))
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            pause(current.id)
            print("Stopping after this layer. Ctrl-C again leaves the worker to itself.", file=sys.stderr)


def _words(event: events.Event) -> str:
    """One event as a line; empty for those that say nothing new here."""
    text = ""
    match event:
        case events.RunStarted():
            parts = " × ".join(event.recipe[part]["name"] for part in ("transform", "codebook", "rounding"))
            text = f"{event.architecture}, {event.blocks} blocks, {len(event.layers)} layers; {parts}"
            text += f" or {rivals - 1} others, by trial" if (rivals := len(event.recipe.get("rivals", ()))) else ""
            text += f"; resumed at block {event.resumed_at}" if event.resumed_at else ""
        case events.PhaseChanged():
            text = f"{event.phase} {event.note}".rstrip()
        case events.Warned():
            text = f"warning {event.code}: {event.message}"
        case events.BitsAllocated():
            low, high = min(event.bits.values()), max(event.bits.values())
            size = f", for {event.expected_bytes} bytes of weights" if event.asked_bytes else ""
            text = f"bits by {event.rule}: {low:.2f} to {high:.2f}{size}"
        case events.LayerQuantized():
            mu = f"mu(W) {event.mu_w_before:5.1f} -> {event.mu_w_after:.1f}"
            notes = f"  {event.transform}" if event.transform else ""
            notes += f"  ({'; '.join(event.notes)})" if event.notes else ""
            text = f"  {event.name:<42} proxy {event.rel_proxy:.2e}  {mu}  {event.seconds:.1f} s{notes}"
        case events.LayerSkipped():
            text = f"  {event.name:<42} skipped: {event.reason}"
    return text or tuning_words(event)


def _outcome(run: Run) -> dict[str, Any]:
    if run.status == "done" and run.result:
        result = {k: v for k, v in run.result.items() if k != "type"}
        summary = f"{result['bits_per_weight']:.3f} bits per weight, {result['bytes'] / 1e6:.1f} MB"
        if asked := result["asked_bytes"]:
            summary += f" ({result['weight_bytes']} bytes of weights, {asked} asked)"
        print(f"{result['out']}: {summary}, {result['seconds']:.1f} s", file=sys.stderr)
        return {**result, "run": run.id, "layers": _layers(run), "tuning": _tuning(run), "warnings": _warnings(run)}
    if run.status in ("paused", "stopped"):
        raise Stopped(f"{run.status.capitalize()}; finished blocks are saved. Continue with --resume ({run.id}).")
    if run.error:
        raise QuipError(run.error["error"], run.error["message"], run.error["hint"])
    fail("WORKER_DIED", reason=f"; its log is {run.directory / 'worker.log'}")


def _layers(run: Run) -> list[dict[str, Any]]:
    """The last word on every layer, also from an earlier worker of this run."""
    found = (events.from_json(record) for record in Tail(run.directory).read())
    return list({e.name: asdict(e) for e in found if isinstance(e, events.LayerQuantized)}.values())


def _warnings(run: Run) -> list[dict[str, str]]:
    """All that a person should know of the run, each once."""
    found = (events.from_json(record) for record in Tail(run.directory).read())
    return [asdict(e) for e in dict.fromkeys(e for e in found if isinstance(e, events.Warned))]


def _tuning(run: Run) -> list[dict[str, Any]]:
    """What came of each stage of tuning."""
    found = (events.from_json(record) for record in Tail(run.directory).read())
    return list({e.stage: asdict(e) for e in found if isinstance(e, events.TuningFinished)}.values())
