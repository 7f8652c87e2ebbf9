"""R4: what a run will take, said before it starts, against what it took; and no start where there is less room.

    python tests/soak/estimates.py [--fast]

Each run has a process of its own. Models are the demo, two that are wide enough to weigh more than Python does, and
small ones of the folder that QUIP_REFERENCE names. The short form works in this process and tells nothing of memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from soak import DEMO, Row, arguments, report  # finds what follows

# isort: split

from workers import forked, quantize, scratch, wait

from quip_engine import room
from quip_engine.commands.bench.synthetic import Shape, write_dense
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.devices import peak_rss_mb
from quip_engine.errors import QuipError
from quip_engine.estimate import output_bytes
from quip_engine.plan import Plan, make_plan

BYTES, MEMORY = 0.10, 0.20  # most that an estimate may be off; what was found is in the row
SMALL = CalibrationConfig(samples=16, seqlen=128)
RECIPES = {  # with bits of embeddings
    "quip# 2": (RecipeConfig("quip#", 2), 0),
    "waterfill 2.5": (RecipeConfig("waterfill", 2.5), 0),
    "quip# 2, embeddings 4": (RecipeConfig("quip#", 2), 4),
    "qtip 3": (RecipeConfig("qtip", 3, options={"L": 10}), 0),
    "icquant 3": (RecipeConfig("icquant", 3), 0),
}
REFERENCE = ("stories260K", "babyllama-105")
FAST = ("quip# 2, embeddings 4",)
WIDE = {"quip# 2": Shape(1280, 3520, blocks=1, vocabulary=8192), "waterfill 2.5": Shape(2048, 5632, 1, 4096)}


def jobs(folder: Path, *, fast: bool) -> Iterator[tuple[str, JobConfig]]:
    """What is run, by name."""
    reference = Path(os.environ.get("QUIP_REFERENCE", ".")) / "models"
    models = [DEMO] if fast else [DEMO, *(reference / name for name in REFERENCE if (reference / name).is_dir())]
    for model in models:
        for name in FAST if fast else RECIPES:
            yield f"{model.name}, {name}", _job(model, folder / f"{model.name} {name}", *RECIPES[name])
    for name, shape in {} if fast else WIDE.items():
        model = folder / f"{shape.width}"
        wait(forked(partial(write_dense, model, shape)))
        yield f"{shape.width} wide, {name}", _job(model, folder / f"wide {name}", *RECIPES[name])


def _job(model: Path, out: Path, recipe: RecipeConfig, embeddings: int) -> JobConfig:
    budget = BudgetConfig(embeddings=embeddings)
    return JobConfig(str(model), str(out), recipe, SMALL, device="cpu", threads=1, budget=budget, force=True)


def promised(plan: Plan) -> tuple[int, int]:
    """Bytes of the finished folder and of memory, as ``check_room`` asks for them."""
    weights = plan.target.weight_bytes
    memory, _ = room.room(plan.facts, plan.recipe, plan.job.calibration, plan.device, weights)
    return output_bytes(plan.facts, plan.recipe, weights), memory


def taken(job: JobConfig, work: Path, *, fast: bool) -> tuple[int, float | None]:
    """What a run took: bytes of its folder and of memory."""
    memory = None
    if fast:
        quantize(job, work)
    else:
        call = [sys.executable, __file__, "--run", json.dumps([job.to_json(), str(work)])]
        memory = float(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout) * 1e6
    size = sum(path.stat().st_size for path in Path(job.out).iterdir())
    shutil.rmtree(job.out)
    return size, memory


def run(told: str) -> int:
    """In a process of its own: do a job, and print what it took of memory."""
    job, work = json.loads(told)
    quantize(JobConfig.from_json(job), Path(work))
    print(peak_rss_mb())
    return 0


def compared(folder: Path, *, fast: bool) -> list[Row]:
    rows = [
        Row("R4", f"bytes of the result within {BYTES:.0%} of what was said"),
        Row("R4", f"peak memory of the worker within {MEMORY:.0%} of what was said"),
    ]
    off: list[list[float]] = [[], []]
    for number, (name, job) in enumerate(jobs(folder, fast=fast)):
        said, found = promised(make_plan(job)), taken(job, folder / f"work-{number}", fast=fast)
        for row, errors, told, took, most in zip(rows, off, said, found, (BYTES, MEMORY), strict=True):
            if took is not None:
                errors.append(told / took - 1)
                words = f"{name}: {told / 1e6:.2f} MB said, {took / 1e6:.2f} MB taken"
                print(words, file=sys.stderr)
                row.problems += [words] if abs(errors[-1]) > most else []
    pairs = [(row, errors) for row, errors in zip(rows, off, strict=True) if errors]
    return [row.close(f"{len(errors)} runs, {min(errors):+.1%} to {max(errors):+.1%}") for row, errors in pairs]


def refused(folder: Path) -> Row:
    """One byte less than 1.1 times what is needed, and that much."""
    row = Row("R4", "no start where less than 1.1 times the estimate is free, of disk and of memory")
    plan = make_plan(_job(DEMO, folder / "out", *RECIPES["quip# 2"]))
    memory, disk = room.room(plan.facts, plan.recipe, plan.job.calibration, plan.device, plan.target.weight_bytes)
    plenty = 10**15
    for what, needed, code in (("free_memory", memory, "HOST_MEMORY"), ("free_bytes", disk, "DISK_FULL")):
        for free, expected in ((int(room.MARGIN * needed), code), (int(room.MARGIN * needed) + 1, "")):
            there = {"free_memory": plenty, "free_bytes": plenty, what: free}
            with mock.patch.multiple(room, **{name: lambda _, much=much: much for name, much in there.items()}):
                if (answer := _answer(plan)) != expected:
                    row.problems.append(f"{what} of {free}, {needed} needed: {answer or 'went on'}")
    return row.close("2 refused, 2 started" if not row.problems else "not as it should be")


def _answer(plan: Plan) -> str:
    try:
        room.check_room(plan)
    except QuipError as error:
        return error.code
    return ""


def main() -> int:
    options = arguments(__doc__, run={"default": "", "help": "a job of this command itself"})
    if options.run:
        return run(options.run)
    with scratch() as folder:
        return report([*compared(folder, fast=options.fast), refused(folder)])


if __name__ == "__main__":
    sys.exit(main())
