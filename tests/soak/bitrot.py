"""R6, R7, R25: damaged working files, changed inputs and model folders that change meanwhile are noticed by name.

python tests/soak/bitrot.py [--fast]
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

from soak import Row, arguments, report
from workers import digests, forked, quantize, scratch, tiny_job, uninterrupted, wait

import quip_engine
from quip_engine import events, plan
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.pipeline import quantize_model

DAMAGED, FELL_BACK = 11, 12  # exit statuses


def flip(path: Path, place: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def work_until(job: JobConfig, work: Path, blocks: int) -> None:
    """Leave the working files as a death after so many blocks would."""
    saved = 0
    for event in quantize_model(job, work, lambda: False):
        saved += isinstance(event, events.BlockSaved)
        if saved == blocks:
            return


def resumed(job: JobConfig, work: Path) -> int:
    try:
        found = list(quantize_model(job, work, lambda: False))
    except QuipError as error:
        return DAMAGED if error.code == "CHECKPOINT_DAMAGED" else 1
    return FELL_BACK * any(isinstance(e, events.Warned) and e.code == "CHECKPOINT_DAMAGED" for e in found)


def damage(folder: Path, expected: dict[str, str], *, fast: bool) -> Row:
    row = Row("R6", "a flipped byte in each working file is found; the generation before counts, or none")
    job, work, template = tiny_job(folder, "rotten"), folder / "rot", folder / "rot-template"
    wait(forked(lambda: work_until(job, template, 2)))
    draw, fell, ended, idle = random.Random(3), 0, 0, 0
    newest = (template / "CURRENT").read_text().split()[0]
    used = (template / "objects" / newest).read_text() + newest
    files = [path for path in sorted(template.rglob("*")) if path.is_file() and path.stat().st_size]
    for path in files[:: 3 if fast else 1]:
        shutil.copytree(template, work)
        flip(work / path.relative_to(template), draw.randrange(path.stat().st_size))
        status = wait(forked(lambda: resumed(job, work)))
        fell, ended, idle = fell + (status == FELL_BACK), ended + (status == DAMAGED), idle + (status == 0)
        if status == 0 and path.name in used:
            row.problems.append(f"{path.name}: not noticed")
        if status in (0, FELL_BACK) and digests(Path(job.out)) != expected:
            row.problems.append(f"{path.name}: other bits")
        if status not in (0, DAMAGED, FELL_BACK):
            row.problems.append(f"{path.name}: exit status {status}")
        for left in (work, Path(job.out)):
            shutil.rmtree(left, ignore_errors=True)
    return row.close(f"{fell} fell back, {ended} ended by name, {idle} in what is no longer used")


def changes(folder: Path) -> Row:
    """R7. Each of many inputs changed alone; the message must name it."""
    job, work = tiny_job(folder, "changed"), folder / "changed-work"
    wait(forked(lambda: work_until(job, work, 1)))
    model, text = Path(job.model), Path(job.calibration.source)
    calibration, recipe = job.calibration, job.recipe

    def now(**values: object) -> JobConfig:
        return replace(job, **values)

    def options(**values: object) -> JobConfig:
        return now(recipe=replace(recipe, options=values))

    def edited(path: Path, edit: Callable[[Path], object]) -> tuple[JobConfig, Path, Callable[[Path], object]]:
        return job, path, edit

    def key(name: str, value: object) -> Callable[[Path], object]:
        return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    def version(target: object, name: str, value: object) -> object:
        return mock.patch.object(target, name, value)

    inputs: dict[str, list[object]] = {
        "files.model.safetensors": [edited(model / "model.safetensors", lambda p: flip(p, -1))],
        "files.config.json": [edited(model / "config.json", key("rms_norm_eps", 1e-5))],
        "files.tokenizer.json": [edited(model / "tokenizer.json", lambda p: p.write_text(p.read_text() + "\n"))],
        "files.tokenizer_config.json": [edited(model / "tokenizer_config.json", key("padding_side", "left"))],
        "files.generation_config.json": [edited(model / "generation_config.json", key("top_k", 7))],
        "files.LICENSE": [edited(model / "LICENSE", lambda p: p.write_text("new"))],
        "calibration": [
            edited(text, lambda p: p.write_text(p.read_text()[::-1])),
            now(calibration=replace(calibration, samples=7)),
            now(calibration=CalibrationConfig(calibration.source, 8, 31)),
        ],
        "seed": [now(seed=1)],
        "bits": [now(recipe=RecipeConfig("quip#", 3))],
        "method": [now(recipe=RecipeConfig("quip", 2))],
        "recipe.transform": [now(recipe=replace(recipe, transform="block-hadamard"))],
        "recipe.rounding": [now(recipe=replace(recipe, rounding="nearest")), options(damping=0.2)],
        "recipe.hessian": [options(hessian="weighted")],
        "threads": [now(threads=2)],
        "out": [now(out=str(folder / "elsewhere"))],
        "versions.torch": [version(plan.torch, "__version__", "1.0")],
        "versions.transformers": [version(plan.transformers, "__version__", "1.0")],
        "versions.quip_studio": [version(quip_engine, "__version__", "0.0")],
        "versions.kernels": [mock.patch.dict(os.environ, QUIP_KERNELS="off")],
        "versions.machine": [version(plan.platform, "machine", lambda: "abacus")],
        "code": [version(plan, "code_digest", lambda: "other")],
    }
    (model / "LICENSE").write_text("old")
    shutil.rmtree(work)
    wait(forked(lambda: work_until(job, work, 1)))
    found = {name: [_refusal(job, work, change) for change in several] for name, several in inputs.items()}
    count = sum(map(len, found.values()))
    row = Row("R7", "each of 20 and more changed inputs is refused by name")
    for name, messages in found.items():
        row.problems += [f"{name}: {message}" for message in messages if name not in message]
    (model / "LICENSE").unlink()
    return row.close(f"{count - len(row.problems)} of {count} named")


def _refusal(job: JobConfig, work: Path, change: object) -> str:
    """What a resume says with one input changed."""
    try:
        if isinstance(change, JobConfig):
            quantize(change, work)
        elif isinstance(change, tuple):
            _, path, edit = change
            before = path.read_bytes()
            try:
                edit(path)
                quantize(job, work)
            finally:
                path.write_bytes(before)
        else:
            with change:  # type: ignore[attr-defined]
                quantize(job, work)
    except QuipError as error:
        return error.message if error.code == "RESUME_MISMATCH" else f"{error.code} {error.message}"
    return "went on"


def sources(folder: Path, expected: dict[str, str]) -> Row:
    """R25. The model folder is changed, emptied or taken away after a block, and comes back."""
    row = Row(
        "R25", "a source that is changed, deleted or taken away is named at the next block; resumed once it is back"
    )
    job, work = tiny_job(folder, "moved"), folder / "moved-work"
    model, aside = Path(job.model), folder / "aside"
    weights = model / "model.safetensors"
    events_of_fate: dict[str, Callable[[], object]] = {
        "changed": lambda: flip(weights, -1),
        "replaced": lambda: shutil.copyfile(model / "config.json", weights),
        "deleted": weights.unlink,
        "folder gone": lambda: model.rename(folder / "gone"),
    }
    for name, befall in events_of_fate.items():
        shutil.copytree(model, aside)
        code = ""
        try:
            for event in quantize_model(job, work, lambda: False):
                if isinstance(event, events.BlockSaved) and event.block == 0:
                    befall()
        except QuipError as error:
            code = error.code
        for left in (model, folder / "gone"):
            shutil.rmtree(left, ignore_errors=True)
        aside.rename(model)
        if code != "SOURCE_CHANGED":
            row.problems.append(f"{name}: {code or 'went on'}")
        quantize(job, work)
        if digests(Path(job.out)) != expected:
            row.problems.append(f"{name}: other bits")
        shutil.rmtree(job.out)
    return row.close(
        f"{len(events_of_fate) - len(row.problems)} of {len(events_of_fate)} named and resumed to the same bits"
    )


def main() -> int:
    options = arguments(__doc__)
    with scratch() as folder:
        whole = uninterrupted(folder, 3)
        expected = digests(Path(whole.out))
        rows = [damage(folder, expected, fast=options.fast), sources(folder, expected)]
        return report([*rows, changes(folder)])


if __name__ == "__main__":
    sys.exit(main())
