"""R15, R16: memory that runs out, of the GPU or of the machine, has a name, and what was finished is kept.

    python tests/soak/memory.py [--fast]

The GPU is played by an allocator that says it is full, at every stage of a block. The machine's memory is limited for a
worker in two ways: by its address space, where it hears of it, and by a control group, where the kernel kills it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from soak import Row, arguments, report
from workers import digests, forked, scratch, strays, tiny_job, uninterrupted, wait, work_on

from quip_engine import block_work, events, walk
from quip_engine.activations import Activations
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.pipeline import quantize_model
from quip_engine.runs import Run, Store, last_words, settle, worker
from quip_engine.skeleton import Skeleton

STAGES = {
    "reading a block": (Skeleton, "load_block"),
    "states": (walk, "Activations"),
    "Hessians": (block_work, "block_hessians"),
    "eigenvectors": (block_work, "eigenvectors"),
    "a layer": (block_work, "quantize_weight"),
    "on to the next block": (Activations, "advance"),
}


def full_gpu(folder: Path) -> Row:
    row = Row("R15", "a full GPU at each stage: fewer tokens at once, then GPU_MEMORY; the next job passes")
    again = named = 0
    for stage, (owner, name) in STAGES.items():
        real, job, work = getattr(owner, name), tiny_job(folder, f"out {stage}"), folder / f"work {stage}"
        for times in (1, 1000):
            left = iter(range(times))

            def full(*args: object, **options: object) -> object:
                if next(left, None) is not None:  # noqa: B023
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return real(*args, **options)  # noqa: B023

            with mock.patch.object(owner, name, full):
                code = _outcome(job, work)
            again, named = again + (code == "again"), named + (code == "GPU_MEMORY")
            if code != ("GPU_MEMORY" if times > 1 or stage == "states" else "again"):
                row.problems.append(f"{stage}, {times} times: {code}")
            if code != "again" and _outcome(job, work) != "at once":
                row.problems.append(f"{stage}: the next job did not pass")
            _remove(Path(job.out))
    return row.close(f"{again} went on with fewer tokens, {named} named, {len(row.problems)} problems")


def _outcome(job: JobConfig, work: Path) -> str:
    try:
        found = list(quantize_model(job, work, lambda: False))
    except QuipError as error:
        return error.code
    return "again" if any(isinstance(e, events.Warned) and e.code == "GPU_MEMORY" for e in found) else "at once"


def _remove(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()
    if folder.exists():
        folder.rmdir()


def small_machine(folder: Path, expected: dict[str, str]) -> list[Row]:
    told = Row("R16", "an allocation that is refused: the run says HOST_MEMORY and can be resumed")
    killed = Row("R16", "a worker that the kernel kills for its memory: HOST_MEMORY, resumed")
    store = Store()
    run = _limited(store, folder, "told", _limit_space)
    told.problems += _must_say_memory(run)
    told.close(f"{run.status}, {(run.error or {}).get('error')}")
    group = _group(60_000_000)
    if group is None:
        return [told, killed.close("no control group can be made here: played below", held=True), _played(folder)]
    try:
        run = _limited(store, folder, "killed", lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    finally:
        group.rmdir()
    killed.problems += _must_say_memory(run)
    status = wait(work_on(store, run))
    if status or digests(Path(run.job.out)) != expected or strays(folder):
        killed.problems.append(f"resumed with {status}")
    return [told, killed.close(f"{run.status}, {(run.error or {}).get('error')}, then {store.get(run.id).status}")]


def _limited(store: Store, folder: Path, name: str, limit: object) -> Run:
    job = tiny_job(folder, name)
    if name == "told":
        text = folder / "long.txt"
        text.write_text((folder / "calibration.txt").read_text() * 60)
        job = replace(job, calibration=CalibrationConfig(str(text), 10_000, 64), force=True)
    run = store.create(job)

    real = worker._quantize

    def quantize_in_limits(*args: object) -> object:
        limit()  # type: ignore[operator]
        if name == "killed":
            bytearray(80 << 20).replace(b"\0", b"x")  # touched, so that it is really there
        return real(*args)  # type: ignore[arg-type]

    with mock.patch.object(worker, "_quantize", quantize_in_limits):
        wait(forked(lambda: worker.main(store.home, run.id)))
    settle(store.home)
    return store.get(run.id)


def _limit_space() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, resource.RLIM_INFINITY))


def _group(limit: int) -> Path | None:
    """A control group with so many bytes, of either version; None where none can be made."""
    for parent, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        try:
            group = parent / f"soak-{os.getpid()}"
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            continue
        return group
    return None


def _must_say_memory(run: Run) -> list[str]:
    if (run.error or {}).get("error") == "HOST_MEMORY" and run.resumable:
        return []
    return [f"{run.status} {run.error}"]


def _played(folder: Path) -> Row:
    """The kernel's count of such deaths has risen since the worker began."""
    row, store = Row("R16", "a worker that is gone after the kernel has killed one for memory"), Store()
    run = store.create(tiny_job(folder, "played"))
    pid = work_on(store, run)
    while not store.get(run.id).pid:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    with mock.patch.object(last_words, "killed_for_memory", lambda: (store.get(run.id).killed or 0) + 1):
        settle(store.home)
    run = store.get(run.id)
    row.problems += _must_say_memory(run)
    if wait(work_on(store, run)) or store.get(run.id).status != "done":
        row.problems.append("not resumed")
    return row.close(f"{run.status}, {(run.error or {}).get('error')}, then {store.get(run.id).status}")


def main() -> int:
    arguments(__doc__)
    with scratch() as folder:
        whole = uninterrupted(folder, 2)
        expected = digests(Path(whole.out))
        rows = small_machine(folder, expected)
        return report([*rows, full_gpu(folder)])


if __name__ == "__main__":
    sys.exit(main())
