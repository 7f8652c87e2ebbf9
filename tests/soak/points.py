"""Every point of a run's last steps, one after the other: its last block's commit, the publishing, the clearing up.

A process works up to its last commit and waits there. Each attempt is a fork of it over a fresh copy of what was on the
disk: it goes on until something befalls it at its n-th operation. Then another process resumes, and the model it
publishes is compared with that of an uninterrupted run.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers import Disk, digests, forked, quantize, strays, wait

from quip_engine.config import JobConfig
from quip_engine.errors import QuipError
from quip_engine.files import discard
from quip_engine.workspace import Workspace

SUFFERED = 64  # exit status of who was not stopped by what befell it
BEGUN: list[ByDisk] = []
CALLS = ("write", "rename", "renameat", "fsync", "unlink", "unlinkat", "link", "mkdir", "rmdir")


@dataclass
class Point:
    """What befell one attempt, and what the next process made of it."""

    name: str
    status: int  # exit status of the process it befell
    kept: bool  # the blocks that were finished before are finished still
    resumed: int  # exit status of the process after it
    same: bool  # as the uninterrupted run
    strays: list[str]

    @property
    def held(self) -> bool:
        return self.kept and self.resumed == 0 and self.same and not self.strays


class ByDisk:
    """The n-th operation of the engine on files goes wrong."""

    def __init__(self, number: int, fault: Callable[[], object], name: str) -> None:
        self.name = f"{name} at operation {number}"
        self._reached = Path(tempfile.gettempdir()) / f"reached-{os.getpid()}"

        def reached() -> None:
            os.close(os.open(self._reached, os.O_CREAT))
            fault()

        self._patched = Disk(number, reached).in_place()

    def begin(self) -> None:
        """In the process that it befalls."""
        self._patched.__enter__()
        BEGUN.append(self)  # or it would end with its last reference

    def watch(self, pid: int) -> int:
        """In the process beside it: its exit status, SUFFERED if it went on to its end all the same."""
        status, reached = wait(pid), self._reached.exists()
        self._reached.unlink(missing_ok=True)
        return SUFFERED if reached and status == 0 else status


class BySystemCall:
    """The n-th system call of a kind goes wrong, by strace."""

    def __init__(self, call: str, number: int, fault: str) -> None:
        self.name, self._inject = f"{fault} at {call} {number}", f"inject={call}:{fault}:when={number}"

    def begin(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def watch(self, pid: int) -> int:
        os.waitpid(pid, os.WUNTRACED)
        call = self._inject.split("=")[1].split(":")[0]
        command = ["strace", "-p", str(pid), "-e", f"trace={call}", "-e", self._inject, "-o", os.devnull]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            while "attached" not in (line := strace.stderr.readline()):
                if not line:
                    raise RuntimeError("strace did not attach")
            os.kill(pid, signal.SIGCONT)
            return wait(pid)


Attempts = Generator[ByDisk | BySystemCall, int, None]


def by_system_calls(fault: str, calls: tuple[str, ...] = CALLS) -> Attempts:
    """``fault`` (as strace words it) at every call, kind by kind, until one is never reached."""
    for call in calls:
        for number in itertools.count(1):
            if (yield BySystemCall(call, number, fault)) == 0:
                break


def by_disk(faults: dict[str, Callable[[], object]], step: int = 1) -> Attempts:
    """One of ``faults`` in turn at every ``step``-th operation until none is reached."""
    turns = itertools.cycle(faults.items())
    for number in itertools.count(1, step):
        name, fault = next(turns)
        if (yield ByDisk(number, fault, name)) == 0:
            break


def explore(job: JobConfig, work: Path, expected: dict[str, str], attempts: Attempts) -> list[Point]:
    """All ``attempts`` on the last steps of a job that nobody has begun; the one that nothing befell is left out."""
    results = work.with_suffix(".points")
    status = wait(forked(lambda: _stage(job, work, expected, attempts, results), quiet=False))
    if status:
        raise RuntimeError(f"the process before the last commit ended with {status}")
    return [Point(**record) for record in map(json.loads, results.read_text().splitlines()) if record["status"]]


def _stage(job: JobConfig, work: Path, expected: dict[str, str], attempts: Attempts, results: Path) -> None:
    real, template = Workspace.commit, work.with_suffix(".template")
    last = json.loads((Path(job.model) / "config.json").read_text())["num_hidden_layers"] - 1

    def commit(space: Workspace, index: int, *rest: Any) -> Any:
        if index < last:
            return real(space, index, *rest)
        Workspace.commit = real  # type: ignore[method-assign]
        shutil.copytree(work, template)
        status: int | None = None
        while attempt := _next(attempts, status):
            _restore(work, template, Path(job.out))
            if (pid := os.fork()) == 0:
                attempt.begin()
                return real(space, index, *rest)  # and on to the end of the job
            status = attempt.watch(pid)
            with results.open("a") as file:
                file.write(
                    json.dumps(asdict(_aftermath(attempt.name, status, job, work, expected=expected, blocks=last)))
                    + "\n"
                )
        os._exit(0)

    Workspace.commit = commit  # type: ignore[method-assign]
    quantize(job, work)


def _next(attempts: Attempts, status: int | None) -> ByDisk | BySystemCall | None:
    try:
        return attempts.send(status)  # type: ignore[arg-type]
    except StopIteration:
        return None


def _restore(work: Path, template: Path, out: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(template, work)


def _aftermath(name: str, status: int, job: JobConfig, work: Path, *, expected: dict[str, str], blocks: int) -> Point:
    out = Path(job.out)
    if status == 0:
        return Point(name, status, True, 0, digests(out) == expected, strays(out.parent))
    if not work.exists():  # the job was done: its next worker has nothing left to do but this
        discard(work)
        return Point(name, status, out.exists(), 0, digests(out) == expected, strays(out.parent))
    try:
        with Workspace(work) as space:
            kept = len(space.finished_blocks()) >= blocks or out.exists()
    except QuipError:
        kept = False
    resumed = wait(forked(lambda: quantize(job, work)))
    return Point(name, status, kept, resumed, out.exists() and digests(out) == expected, strays(out.parent))
