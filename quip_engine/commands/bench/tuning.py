"""``bench tuning``: what Hessians that know errors' costs take beside plain ones, and what tuning beside what it said.

| row                  | figure                                                   | beside                        |
|----------------------|----------------------------------------------------------|-------------------------------|
| ``KIND Hessians, s`` | seconds of a run but for rounding, median                | the same with plain Hessians  |
| ``STAGE, s``         | from where a stage said what it will cost to its end     | what it said, for those steps |
| ``STAGE, MB``        | peak of resident memory                                  | what it said                  |

Every run is of a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from quip_engine import events
from quip_engine.commands.bench.memory import in_process
from quip_engine.commands.bench.methods import Named
from quip_engine.commands.text import MarkdownTable
from quip_engine.commands.tuning_args import add_tuning_numbers, tuning_numbers
from quip_engine.config import CalibrationConfig, JobConfig, TuningConfig, check_number

METHODS = ("waterfill+end-to-end", "waterfill+progressive", "icquant+pv")
KINDS = ("plain", "weighted", "two-sided")
BEHIND = "waterfill:L=8,spread=0,targets=original"  # what takes them all, and asks the model nothing but them
ROUNDS = 3  # of the Hessians of all kinds, by turns
AT_MOST, WITHIN = 3.0, 0.25  # times the plain Hessian; of what was said
COLUMNS = ("what", "measured", "beside", "ratio", "target")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("tuning", help="the cost of Hessians, and of tuning beside what it said")
    parser.add_argument("--model", metavar="DIR", help="model folder (default: the bundled demo model)")
    text = "METHOD+STAGE+..., each a run (default: " + " ".join(METHODS) + ")"
    parser.add_argument("--methods", nargs="*", default=METHODS, metavar="METHOD", help=text)
    parser.add_argument("--calibration", metavar="NAME|FILE", help="calibration text (default: as quantize)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    text = f"of the Hessians of all kinds, 0: none (default: {ROUNDS})"
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=text)
    add_tuning_numbers(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    from quip_engine.commands.bench.models import DEMO  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.loading import checked_folder  # noqa: PLC0415

    model = str(checked_folder(options.model or str(DEMO)))
    check_number("rounds", options.rounds, 0, 1000, whole=True)
    source = CalibrationConfig(options.calibration or CalibrationConfig().source)
    rows, table = [], MarkdownTable(*COLUMNS)
    named = [Named.read(word, 2) for word in options.methods]  # a wrong word ends it before anything runs

    def job(method: Named) -> JobConfig:
        tuning = TuningConfig(method.stages, **tuning_numbers(options))
        return JobConfig(model, "", method.recipe, source, device="cpu", threads=options.threads, tuning=tuning)

    def add(what: str, measured: float, beside: float, target: str, *, held: bool) -> None:
        ratio = measured / beside
        rows.append({"name": what, "measured": measured, "beside": beside, "ratio": ratio, "held": held})
        table.add(what, f"{measured:.1f}", f"{beside:.1f}", f"{ratio:.2f}", target)

    if options.rounds:
        jobs = [job(Named.read(f"{BEHIND},hessian={kind}", 2)) for kind in KINDS]
        taken = [[in_process(hessians, each) for each in jobs] for _ in range(options.rounds)]
        plain, *others = (statistics.median(times) for times in zip(*taken, strict=True))
        for kind, seconds in zip(KINDS[1:], others, strict=True):
            add(f"{kind} Hessians, s", seconds, plain, f"at most {AT_MOST:g}", held=seconds <= AT_MOST * plain)
    for method in named:
        for stage, *figures in in_process(stages, job(method)):
            for unit, took, said in zip(("s", "MB"), *figures, strict=True):
                close = abs(took / said - 1) <= WITHIN
                add(f"{method.word}: {stage}, {unit}", took, said, f"{1 - WITHIN:g} to {1 + WITHIN:g}", held=close)
    return rows


def hessians(job: JobConfig) -> float:
    """Seconds that a run needs for all but rounding: passes over the calibration text, Hessians, gradients."""
    rounding, begun = 0.0, 0.0
    for event in _run(job):
        if isinstance(event, events.LayerQuantized):
            rounding += event.seconds
        elif isinstance(event, events.PhaseChanged) and event.phase == "calibrate":
            begun = begun or time.perf_counter()
        elif isinstance(event, events.PhaseChanged) and event.phase == "pack":
            return time.perf_counter() - begun - rounding
    raise AssertionError("a run ends by packing")


def stages(job: JobConfig) -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """Of each stage of a run: its name, (seconds, megabytes) as they came, and as they were said before."""
    found = []
    for event in _run(job):
        if isinstance(event, events.TuningStarted):
            said = event
        elif isinstance(event, events.TuningFinished):
            seconds = said.seconds * event.steps / said.steps  # less where nothing better came for a while
            found.append((event.stage, (event.seconds, event.peak_rss_mb), (seconds, said.peak_rss_mb)))
    return found


def _run(job: JobConfig) -> Iterator[events.Event]:
    """As a worker does it; nothing is left on disk."""
    from quip_engine.process import return_freed_memory  # noqa: PLC0415

    return_freed_memory()  # before torch is there
    from quip_engine.pipeline import quantize_model  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="quip-bench-") as folder:
        yield from quantize_model(replace(job, out=f"{folder}/out"), Path(folder) / "work", lambda: False)
