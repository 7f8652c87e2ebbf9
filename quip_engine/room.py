"""Whether a run will fit, before it starts: refused where less is free than MARGIN times what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil
import torch

from quip_engine.errors import fail
from quip_engine.estimate import output_bytes, room
from quip_engine.files import disk_full, free_bytes
from quip_engine.plan import Plan

MARGIN = 1.1


def check_room(plan: Plan, workspace: Path | None = None, besides: int = 0) -> None:
    """Raises ``DISK_FULL``, ``HOST_MEMORY`` or ``GPU_MEMORY``. What is in ``workspace`` already needs no more room.

    ``besides``: bytes that tuning keeps there.
    """
    recipe = plan.recipe
    if plan.target.measured and not recipe.weighted:
        recipe = replace(recipe, hessian="weighted")  # the same way back, for bits alone
    weight_files = plan.target.weight_bytes
    memory, disk = room(plan.facts, recipe, plan.job.calibration, plan.device, weight_files)
    out = Path(plan.job.out).absolute()
    disk += besides
    held = _bytes_of(workspace) if workspace else 0
    work = workspace or out
    if free_bytes(work) < MARGIN * (disk - held):
        disk_full(work, disk - held)
    size = output_bytes(plan.facts, recipe, weight_files)
    if not _same_disk(work, out) and free_bytes(out) < MARGIN * size:
        disk_full(out, size)
    free = free_memory(plan.device)
    if free < MARGIN * memory:
        if plan.device.type == "cuda":
            refuse_gpu(plan)
        fail("HOST_MEMORY", where=f": {memory / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def refuse_gpu(plan: Plan) -> NoReturn:
    """Raise ``GPU_MEMORY`` with what the job needs and what is free."""
    needed, _ = room(plan.facts, plan.recipe, plan.job.calibration, plan.device)
    fail("GPU_MEMORY", needed=f"{needed / 1e9:.1f}", free=f"{free_memory(plan.device) / 1e9:.1f}")


def free_memory(device: torch.device) -> int:
    """Bytes that a device can still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _same_disk(*paths: Path) -> bool:
    existing = (next(place for place in (path, *path.parents) if place.exists()) for path in paths)
    return len({place.stat().st_dev for place in existing}) == 1
