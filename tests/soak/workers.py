"""Workers to be killed: a tiny job, processes forked from one that has everything imported, and a disk that fails.

A worker takes seconds to import what it needs; a fork of a process that has done so begins at once, so that hundreds of
deaths take minutes. ``Disk`` counts what the engine does to files (write, sync, rename, link, make, remove) and lets
the n-th of them fail, or end the process as a pulled plug would.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

import soak  # noqa: F401 - finds the engine
import torch
from helpers import made_up_text, share_kernels, tiny_model

from quip_engine import checkpoint
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.files import sha256
from quip_engine.pipeline import quantize_model
from quip_engine.runs import Run, Store, worker

torch.set_num_threads(1)  # a fork has only the thread that forked
KILLED = -signal.SIGKILL


def tiny_job(folder: Path, name: str = "out", *, blocks: int = 4, **recipe: Any) -> JobConfig:
    """A job of about a second; the model and the text are made where they are not there yet."""
    text, model = folder / "calibration.txt", folder / "tiny-llama"
    if not model.exists():
        text.write_text(made_up_text(1500))
        tiny_model(folder, num_hidden_layers=blocks)
    calibration = CalibrationConfig(str(text), samples=8, seqlen=32)
    settings = {"calibration": calibration, "device": "cpu", "threads": 1}
    return JobConfig(str(model), str(folder / name), RecipeConfig(**{"method": "quip#", **recipe}), **settings)


def home_in(folder: Path) -> Path:
    """A data directory with compiled kernels."""
    home = share_kernels(folder / "home")
    os.environ["QUIP_STUDIO_HOME"] = str(home)
    return home


@contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A folder of its own for a command, with a home in it; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="soak-", dir=where, ignore_cleanup_errors=True) as name:
        home_in(Path(name))
        yield Path(name)


def uninterrupted(folder: Path, blocks: int) -> JobConfig:
    """A finished job that nothing happened to: what the others are compared with."""
    whole = tiny_job(folder, "whole", blocks=blocks)
    if status := wait(forked(lambda: quantize(whole, folder / "work-whole"), quiet=False)):
        raise RuntimeError(f"the uninterrupted run ended with {status}")
    return whole


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished model."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def quantize(job: JobConfig, work: Path) -> None:
    for _ in quantize_model(job, work, lambda: False):
        pass


def forked(call: Callable[[], object], *, quiet: bool = True) -> int:
    """Do a call in a process of its own. It ends with the call's exit status: 2 for ``QuipError``, 1 for a defect."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
        found = call()
        status = found if isinstance(found, int) else 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except QuipError as error:
        status = 2 if error.code in ("DISK_FULL", "IO_ERROR") else 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """Exit status of a forked process; below zero the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seconds: float) -> int:
    """Kill it, unless it ends before; its exit status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def work_on(store: Store, run: Run) -> int:
    """Give a run a worker, forked; its process number."""
    (run.directory / "STOP").unlink(missing_ok=True)
    store.give_turn(run.id)
    return forked(lambda: worker.main(store.home, run.id))


def strays(*folders: Path) -> list[str]:
    """Files that were to have another name by now."""
    found = [path for folder in folders for path in folder.rglob("*") if path.name.startswith((".tmp", "."))]
    return [str(path) for path in found if "partial" in path.name or path.name.startswith(".tmp")]


class Disk:
    """``operations`` of the engine so far; at ``failing`` the ``fault`` is called instead."""

    def __init__(self, failing: int, fault: Callable[[], object]) -> None:
        self.operations, self.failing, self.fault = 0, failing, fault

    def count(self) -> None:
        self.operations += 1
        if self.operations == self.failing:
            self.fault()

    def __call__(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.count()
            return real(*args, **options)

        return counted

    def open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            found = real(file, mode, *args, **options)
            return _Counted(found, self) if set(mode) & set("wax+") else found

        return opened

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with (
            mock.patch.multiple(
                os,
                **{name: self(getattr(os, name)) for name in ("fsync", "replace", "rename", "unlink", "mkdir", "link")},
            ),
            mock.patch.object(checkpoint, "save_file", self(checkpoint.save_file)),
            mock.patch.object(shutil, "copyfile", self(shutil.copyfile)),
            mock.patch.object(io, "open", self.open(io.open)),
            mock.patch.object(builtins, "open", self.open(builtins.open)),
        ):
            yield


class _Counted:
    """A file whose writes count."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        self._disk.count()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)
