"""R13, R14, R23: the history survives deaths in its commits, and no order of commands breaks what always holds.

python tests/soak/history.py [--fast] [--sequences 2000] [--processes 2]

The time of day jumps by a day back or a year ahead, for the workers, too: durations and orders come from other clocks.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

from soak import Row, arguments, report  # finds what follows

# isort: split

import psutil
from clock import Clock
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from workers import forked, wait

from quip_engine import events, pipeline
from quip_engine.config import JobConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.runs import Run, Store, Tail, client, last_words, queue, store, worker
from quip_engine.runs.log import finished_blocks
from quip_engine.runs.removal import delete
from quip_engine.runs.store import is_locked

BLOCKS, PACE = 20, 0.005  # of the played job: seconds a block
RAM = Path("/dev/shm")  # thousands of fsyncs; deaths of processes do not need a disk
ODD = {"BUSY", "NOTHING_TO_RESUME", "NOT_QUEUED", "RUN_NOT_FOUND", "NOT_YOURS"}  # refusals are right answers


def commit_until_killed(home: Path, told: int) -> None:
    """Commit rows for ever, and tell of each once it is committed."""
    store = Store(home)
    while True:
        run = store.create(JobConfig("model", "out"))
        store.update(run.id, status="running", note="committed")
        os.write(told, f"{run.id}\n".encode())


def deaths(folder: Path, kills: int) -> Row:
    row, draw = Row("R23", f"{kills} kill -9 during commits: history whole, no acknowledged row lost"), random.Random(4)
    known: list[str] = []
    Store(folder)
    for number in range(kills):
        reading, writing = os.pipe()
        pid = forked(lambda: commit_until_killed(folder, writing))  # noqa: B023
        os.close(writing)
        time.sleep(draw.uniform(0.03, 0.3))
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        with os.fdopen(reading) as file:
            known += file.read().split()
        with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as db:
            if (said := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                row.problems.append(f"death {number}: {said}")
            rows = dict(db.execute("SELECT id, note FROM runs"))
        row.problems += [f"death {number}: {name} is lost" for name in known if rows.get(name) != "committed"]
    found = f"{kills} deaths, {len(known)} rows acknowledged, {len(row.problems)} problems"
    return row.close(found, held=bool(known) and not row.problems)


def played(job: JobConfig, workspace: Path, stop: object) -> Iterator[events.Event]:
    """A job of BLOCKS blocks that keeps what it has done, as the real one does."""
    workspace.mkdir(exist_ok=True)
    done = len(list(workspace.iterdir()))
    yield events.RunStarted("model", "Played", {}, {}, BLOCKS, [], 0, 0, "cpu", done)
    for block in range(done, BLOCKS):
        if stop():  # type: ignore[operator]
            raise Stopped(block)
        time.sleep(PACE)
        (workspace / str(block)).touch()
        yield events.BlockSaved(block, 0, "", PACE, 0.0)
    yield events.RunFinished(job.out, "quip#", 2, 2.0, 0, 0.0, 0.0, 0.0)


def begin(store: Store, run: Run) -> None:
    """In the place of a process that has to import everything first."""
    pid = forked(lambda: worker.main(store.home, run.id))
    PIDS.append(pid)
    deadline = time.monotonic() + 5
    while not is_locked(run.directory / "worker.lock") and time.monotonic() < deadline and psutil.pid_exists(pid):
        _reap()
        time.sleep(0.001)


PIDS: list[int] = []
BROKEN: list[str] = []  # as it was seen: processes never do the same twice
PART = 25  # sequences: what broke one part leaves the others


def _reap() -> None:
    for pid in list(PIDS):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        PIDS.remove(pid)


class Commands(RuleBasedStateMachine):
    """Any order of what a person, or fate, can do."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="soak-", dir=RAM if RAM.is_dir() else None))
        self.store = Store(self.home)
        self.job = JobConfig(str(self.home / "model"), str(self.home / "out"))
        self.known: set[str] = set()
        self.progress: dict[str, int] = {}

    @initialize()
    def first(self) -> None:
        self.start()

    @rule()
    def start(self) -> None:
        self._try(lambda: self.known.add(client.start(self.job, self.home).id))

    @rule()
    def enqueue(self) -> None:
        self._try(lambda: self.known.add(queue.enqueue(self.job, self.home).id))

    @rule(which=st.integers(0, 5))
    def pause(self, which: int) -> None:
        self._with(which, lambda run: client.pause(run, self.home))

    @rule(which=st.integers(0, 5))
    def resume(self, which: int) -> None:
        self._with(which, lambda run: client.resume(run, self.home))

    @rule(which=st.integers(0, 5))
    def stop(self, which: int) -> None:
        self._with(which, lambda run: client.stop(run, self.home))

    @rule()
    def kill(self) -> None:
        if (run := client.active(self.home)) and run.pid in PIDS:
            os.kill(run.pid, signal.SIGKILL)

    @rule(which=st.integers(0, 5))
    def delete(self, which: int) -> None:
        def gone(run: str) -> None:
            delete(run, self.home)
            self.known.discard(run)

        self._with(which, gone)

    @rule(which=st.integers(0, 5), by=st.integers(-2, 2))
    def move(self, which: int, by: int) -> None:
        self._with(which, lambda run: queue.move(run, by, self.home))

    @rule(which=st.integers(0, 5))
    def rename(self, which: int) -> None:
        self._with(which, lambda run: self.store.describe(run, name="another name"))

    @rule()
    def proceed(self) -> None:
        self._try(lambda: queue.proceed(self.home))

    @rule()
    def look_after(self) -> None:
        last_words.settle(self.home)

    @rule(days=st.sampled_from([-1, 365, 0]))
    def clock(self, days: int) -> None:  # with 0 it is right again
        time.time.jump(days)  # type: ignore[attr-defined]

    @rule(blocks=st.integers(1, 8))
    def a_while(self, blocks: int) -> None:
        time.sleep(blocks * PACE)

    @invariant()
    def what_always_holds(self) -> None:
        _reap()
        runs = self.store.list()
        try:
            self._check(runs)
        except AssertionError as broken:
            seen = [
                (run.id, run.status, run.turn, [r["type"] for r in Tail(run.directory).read()][-3:]) for run in runs
            ]
            BROKEN.append(f"{broken}: {seen}")
            raise

    def _check(self, runs: list[Run]) -> None:
        assert {run.id for run in runs} == self.known, "a row for every run and no other"
        folders = {path.name for path in (self.home / "runs").iterdir()}
        assert folders == self.known, "a folder for every run and no other"
        assert sum(run.alive for run in runs) <= 1, "one worker"
        assert all(self._leaves(run) for run in runs), "who has said a last word goes"
        places = [run.place for run in runs if run.status == "queued"]
        assert len(set(places)) == len(places), "one place in the queue for each"
        assert len(turns := {run.turn for run in runs if run.turn}) == sum(run.turn > 0 for run in runs), "own turns"
        assert all(run.turn == max(turns) for run in runs if run.alive), "who works is the one that began last"
        for run in runs:
            records = Tail(run.directory).read()
            saved = len(finished_blocks(records))
            assert saved >= self.progress.get(run.id, 0), "progress is never lost"
            assert run.status != "done" or saved == BLOCKS, "what is done is whole"
            assert [record["seq"] for record in records] == list(range(len(records))), "events in order, none twice"
            for earlier, later in itertools.pairwise(records):
                assert earlier["tick"] <= later["tick"] and earlier["turn"] <= later["turn"], "no time is negative"
            assert self._keeps(run, saved), "what is told of is kept"
            self.progress[run.id] = saved

    @staticmethod
    def _keeps(run: Run, saved: int) -> bool:
        """Whether as many blocks are there as were told of, or all are done and cleared up by now."""
        with contextlib.suppress(FileNotFoundError):
            if len(list((run.directory / "work").iterdir())) >= saved:
                return True
        return saved in (0, BLOCKS) or len(finished_blocks(Tail(run.directory).read())) == BLOCKS

    def _leaves(self, run: Run) -> bool:
        """Whether nobody works on a run unseen; who has just ended needs a moment."""
        deadline = time.monotonic() + 10
        while is_locked(run.directory / "worker.lock") and not self.store.get(run.id).alive:
            if time.monotonic() > deadline:
                return False
        return True

    def teardown(self) -> None:
        time.time.jump(0)  # type: ignore[attr-defined]
        for pid in PIDS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait(pid)
        PIDS.clear()
        shutil.rmtree(self.home, ignore_errors=True)

    def _with(self, which: int, command: object) -> None:
        if runs := sorted(self.known):
            self._try(lambda: command(runs[which % len(runs)]))  # type: ignore[operator]

    def _try(self, command: object) -> None:
        try:
            command()  # type: ignore[operator]
        except QuipError as error:
            if error.code not in ODD:
                BROKEN.append(f"{error.code}: {error.message}")
                raise


def broken_by(count: int) -> str:
    """What ``count`` sequences of commands have broken; empty: nothing."""
    BROKEN.clear()
    chosen = settings(
        max_examples=count,
        stateful_step_count=30,
        phases=[Phase.generate],  # real processes: what broke once need not break again in a shorter sequence
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with (
        mock.patch.object(client, "begin", begin),
        mock.patch.object(queue, "begin", begin),
        mock.patch.object(pipeline, "quantize_model", played),
        mock.patch.object(store, "GRACE", 0.005),  # few ask here
        mock.patch.object(time, "time", Clock()),
    ):
        try:
            run_state_machine_as_test(Commands, settings=chosen)
        except Exception as broken:
            return f"{BROKEN or broken!r} {getattr(broken, '__notes__', '')}"
    return ""


def sequences(count: int, processes: int) -> Row:
    row = Row("R13, R14", f"{count} sequences of up to 30 commands and jumps of the clock break nothing")
    began, parts = time.monotonic(), -(-count // PART)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        for problem in pool.map(broken_by, [len(range(k, count, parts)) for k in range(parts)]):
            if problem:
                row.problems.append(problem)
                print(problem, file=sys.stderr, flush=True)
    return row.close(f"{count} sequences in {time.monotonic() - began:.0f} s, {len(row.problems)} broken")


def main() -> int:
    numbers = {name: {"type": int, "default": n} for name, n in (("sequences", 2000), ("kills", 200), ("processes", 2))}
    options = arguments(__doc__, **numbers)
    fast = options.fast
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        dead = deaths(Path(name), 8 if fast else options.kills)
        return report([dead, sequences(10 if fast else options.sequences, options.processes)])


if __name__ == "__main__":
    sys.exit(main())
