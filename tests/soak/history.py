"""R13, R23: the history survives deaths in its commits, and no order of commands breaks what always holds.

python tests/soak/history.py [--fast] [--sequences 2000]
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from soak import Row, arguments, report  # finds what follows

# isort: split

import psutil
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from workers import forked, wait

from quip_engine import events, pipeline
from quip_engine.config import JobConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.runs import Run, Store, Tail, client, last_words, queue, worker
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

    @rule(days=st.sampled_from([-1, 1]))
    def clock(self, days: int) -> None:
        """For one command, the time of day jumps."""
        real = time.time
        with mock.patch.object(time, "time", lambda: real() + days * 86400):
            last_words.settle(self.home)

    @rule(blocks=st.integers(1, 8))
    def a_while(self, blocks: int) -> None:
        time.sleep(blocks * PACE)

    @invariant()
    def what_always_holds(self) -> None:
        _reap()
        runs = self.store.list()
        assert {run.id for run in runs} == self.known, "a row for every run and no other"
        folders = {path.name for path in (self.home / "runs").iterdir()}
        assert folders == self.known, "a folder for every run and no other"
        locked = [run.id for run in runs if is_locked(run.directory / "worker.lock")]
        assert len(locked) <= 1, f"one worker, not {locked}"
        places = [run.place for run in runs if run.status == "queued"]
        assert len(set(places)) == len(places)
        for run in runs:
            work, records = run.directory / "work", Tail(run.directory).read()
            saved = len({record["block"] for record in records if record["type"] == "BlockSaved"})
            assert saved >= self.progress.get(run.id, 0), "progress is never lost"
            assert run.status != "done" or saved == BLOCKS
            assert [record["seq"] for record in records] == list(range(len(records))), "events in order, none twice"
            assert not work.exists() or len(list(work.iterdir())) >= saved
            self.progress[run.id] = saved

    def teardown(self) -> None:
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
            assert error.code in ODD, error.message


def sequences(count: int) -> Row:
    row = Row("R13", f"{count} sequences of up to 30 commands break nothing that always holds")
    chosen = settings(
        max_examples=count,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    began = time.monotonic()
    patches = [mock.patch.object(module, "begin", begin) for module in (client, queue)]
    with patches[0], patches[1], mock.patch.object(pipeline, "quantize_model", played):
        try:
            run_state_machine_as_test(Commands, settings=chosen)
        except Exception as broken:
            row.problems.append(f"{type(broken).__name__}: {broken} {getattr(broken, '__notes__', '')}")
    return row.close(f"{count} sequences in {time.monotonic() - began:.0f} s, {len(row.problems)} broken")


def main() -> int:
    options = arguments(__doc__, sequences={"type": int, "default": 2000}, kills={"type": int, "default": 200})
    fast = options.fast
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        rows = [deaths(Path(name), 8 if fast else options.kills), sequences(10 if fast else options.sequences)]
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
