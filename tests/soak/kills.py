"""R1, R2, R8, R11, R12: workers that are killed, asked to end, or started too often lose nothing and do nothing twice.

python tests/soak/kills.py [--fast] [--kills 100]
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest import mock

from points import by_disk, by_system_calls, explore
from soak import Row, arguments, report
from workers import KILLED, digests, forked, kill_after, quantize, scratch, strays, tiny_job, wait, work_on

from quip_engine.errors import QuipError
from quip_engine.runs import Run, Store, Tail, client
from quip_engine.workspace import Workspace


def saved_blocks(run: Run) -> int:
    return len({r["block"] for r in Tail(run.directory).read() if r["type"] == "BlockSaved"})


def redone(run: Run) -> int:
    """Most blocks that one worker began although a worker before it had begun them."""
    before: set[int] = set()
    most, now = 0, set()
    for record in Tail(run.directory).read():
        if record["type"] == "RunStarted":
            most, before, now = max(most, len(before & now)), before | now, set()
        elif record["type"] == "LayerQuantized":
            now.add(record["block"])
    return max(most, len(before & now))


def random_kills(folder: Path, expected: dict[str, str], seconds: float, kills: int) -> Row:
    """R1. Deaths at random moments, several to a run, until there were ``kills``."""
    row = Row("R1", f"{kills} of {kills} random kill -9 resume to the same bits, at most one block done again")
    store, draw, deaths, runs = Store(), random.Random(1), 0, 0
    while deaths < kills:
        job = tiny_job(folder, "killed")
        run, runs = store.create(job), runs + 1
        while store.get(run.id).status != "done":
            had = saved_blocks(run)
            status = kill_after(work_on(store, run), draw.uniform(0, seconds))
            deaths += status == KILLED
            if status not in (0, KILLED):
                row.problems.append(f"{run.id}: exit status {status}")
                break
            started = [r["resumed_at"] for r in Tail(run.directory).read() if r["type"] == "RunStarted"]
            if status == KILLED and started and started[-1] < had and saved_blocks(run) > had:
                row.problems.append(f"{run.id}: began at {started[-1]} with {had} blocks saved")
        if not Path(job.out).exists() or digests(Path(job.out)) != expected:
            row.problems.append(f"{run.id}: other bits")
        if (again := redone(run)) > 1:
            row.problems.append(f"{run.id}: {again} blocks done again by one worker")
        row.problems += strays(run.directory, folder)
        shutil.rmtree(job.out, ignore_errors=True)
    return row.close(f"{deaths} deaths in {runs} runs, {len(row.problems)} problems")


def every_point(folder: Path, expected: dict[str, str], *, fast: bool) -> Row:
    """R2. Death at every operation of the last commit and of the publishing."""
    strace = None if fast else shutil.which("strace")
    how = "system call" if strace else "operation"
    row = Row("R2", f"killed at every {how} of a commit and the publishing, 100 % resume")
    job = tiny_job(folder, "points")
    plug = {"pulled plug": lambda: os._exit(137)}
    attempts = by_system_calls("signal=KILL") if strace else by_disk(plug, 12 if fast else 1)
    points = explore(job, folder / "work-points", expected, attempts)
    row.problems = [str(point) for point in points if not point.held]
    return row.close(f"{len(points) - len(row.problems)} of {len(points)} points")


def signals(folder: Path, expected: dict[str, str], seconds: float, count: int) -> Row:
    """R8. SIGTERM and SIGINT at random moments."""
    row = Row("R8", f"{count} signals: exit status 75 within a block, blocks kept")
    store, draw, slowest, sent = Store(), random.Random(2), 0.0, 0
    while sent < count:
        job = tiny_job(folder, "asked")
        run = store.create(job)
        while store.get(run.id).status != "done":
            pid = work_on(store, run)
            time.sleep(0.05 + draw.uniform(0, seconds))
            began = time.monotonic()
            os.kill(pid, draw.choice([signal.SIGTERM, signal.SIGINT]))
            status = wait(pid)
            if status == 75:
                sent, slowest = sent + 1, max(slowest, time.monotonic() - began)
            elif status != 0:
                row.problems.append(f"{run.id}: exit status {status}, {store.get(run.id).error}")
                break
            if status == 75 and store.get(run.id).status not in ("stopped", "starting"):  # before it began
                row.problems.append(f"{run.id}: {store.get(run.id).status}")
        if not Path(job.out).exists() or digests(Path(job.out)) != expected:
            row.problems.append(f"{run.id}: other bits, or none")
        shutil.rmtree(job.out, ignore_errors=True)
    return row.close(f"{sent} ended with 75, the slowest after {slowest:.1f} s; {len(row.problems)} problems")


def at_once(folder: Path, starts: int) -> list[Row]:
    """R11, R12. Everybody starts at the same moment; a workspace has one writer; a death frees it."""
    row, second = Row("R11", f"{starts} starts at once: one works, the others are told"), Row("R12", "refused in 1 s")
    store, workers = Store(), folder / "workers"

    def begin(_store: Store, run: Run) -> None:
        with workers.open("a") as file:
            file.write(f"{forked(lambda: _hold(run))}\n")
        while not store.get(run.id).alive:
            time.sleep(0.01)

    def start() -> int:
        with mock.patch.object(client, "begin", begin):
            try:
                client.start(tiny_job(folder, "at-once"))
            except QuipError as error:
                return 75 if error.code == "BUSY" else 1
        return 0

    found = [wait(pid) for pid in [forked(start) for _ in range(starts)]]
    holders = workers.read_text().split()
    if (found.count(0), found.count(75), len(holders)) != (1, starts - 1, 1):
        row.problems.append(f"{found.count(0)} started, {found.count(75)} busy, {len(holders)} workers")
    os.kill(int(holders[0]), signal.SIGKILL)
    began = time.monotonic()
    while client.at_work(store):
        time.sleep(0.01)
    row.close(f"{found.count(0)} works, {found.count(75)} busy; free {time.monotonic() - began:.2f} s after its death")
    began = time.monotonic()
    with Workspace(folder / "contested"):
        status = wait(forked(lambda: Workspace(folder / "contested").__enter__()))
    took = time.monotonic() - began
    return [row, second.close(f"refused in {took:.2f} s", held=status == 3 and took < 1)]


def _hold(run: Run) -> None:
    from filelock import FileLock

    with FileLock(run.directory / "worker.lock"):
        Store().update(run.id, status="running", started=time.time(), pid=os.getpid())
        time.sleep(600)


def main() -> int:
    options = arguments(__doc__, kills={"type": int, "default": 100}, only={"default": ""})
    fast = options.fast
    with scratch() as folder:
        whole = tiny_job(folder, "whole", blocks=2 if fast else 6)
        began = time.monotonic()
        if status := wait(forked(lambda: quantize(whole, folder / "work-whole"), quiet=False)):
            raise RuntimeError(f"the uninterrupted run ended with {status}")
        seconds = 1.3 * (time.monotonic() - began)
        expected = digests(Path(whole.out))
        parts = {
            "R1": lambda: [random_kills(folder, expected, seconds, 4 if fast else options.kills)],
            "R2": lambda: [every_point(folder, expected, fast=fast)],
            "R8": lambda: [signals(folder, expected, seconds, 3 if fast else 50)],
            "R11": lambda: at_once(folder, 10 if fast else 50),
        }
        chosen = options.only.split(",") if options.only else list(parts)
        return report([row for part in chosen for row in parts[part]()])


if __name__ == "__main__":
    sys.exit(main())
