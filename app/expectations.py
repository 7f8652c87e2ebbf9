"""What sizes are expected to cost: measured by a process of its own, kept for each model and recipe.

<home>/expectations/<key>.json      an ``Expectation``; the key is that of all that decides the curve: the model's
                                    content, the recipe but for its bits, who gets the bits, the text, the seed
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import quip_engine
from quip_engine.config import BudgetConfig, JobConfig
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.expectation import Expectation
from quip_engine.files import write_json
from quip_engine.runs.evaluation_store import content_of

MINUTES = 1.0
LOOK = 0.25  # seconds between two looks


class Expectations:
    """Those of a data directory."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "expectations"

    def of(self, job: JobConfig) -> Expectation | None:
        """What is expected of a job's model and recipe at each size; None where that was not measured."""
        try:
            return Expectation.from_json(json.loads(self._file(job).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, QuipError):
            return None

    def measure(self, job: JobConfig, stop: Callable[[], bool]) -> Iterator[str]:
        """Measure and keep it; yields what is done now, several times a second.

        Raises ``Stopped`` where ``stop`` becomes true, and the coded errors of the job. The process ends with the
        iterator.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
            process = _started(job, answer)
            try:
                yield from _progress(process, stop)
            finally:
                process.kill()
                process.wait()
            answer.seek(0)
            found = _answered(answer.read(), process.returncode)
        self._folder.mkdir(exist_ok=True, mode=0o700)
        write_json(self._file(job), found.to_json())

    def _file(self, job: JobConfig) -> Path:
        record = job.to_json()
        recipe = {**record["recipe"], "bits": 0}
        parts = [content_of(job.model), recipe, rule(job), record["calibration"], job.seed]
        return self._folder / f"{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}.json"


def rule(job: JobConfig) -> str:
    """Who gets the bits, but for those given by hand."""
    return BudgetConfig.rule if job.budget.rule == "manual" else job.budget.rule


def words(job: JobConfig) -> list[str]:
    """The command that measures it, behind the name of the program."""
    recipe, text = job.recipe, job.calibration
    found = ["expect", job.model, "--json", "--method", recipe.method, "--allocation", rule(job)]
    for part in ("transform", "codebook", "rounding"):
        found += [f"--{part}", name] if (name := getattr(recipe, part)) else []
    for key, value in recipe.options.items():
        found += ["--option", f"{key}={value}"]
    found += ["--calibration", text.source, "--samples", str(text.samples), "--seqlen", str(text.seqlen)]
    found += ["--seed", str(job.seed), "--device", job.device, "--minutes", f"{MINUTES:g}"]
    return found + (["--threads", str(job.threads)] if job.threads else [])


def _started(job: JobConfig, answer: IO[str]) -> subprocess.Popen[str]:
    parent = str(Path(quip_engine.__file__).parents[1])
    path = os.pathsep.join(filter(None, [parent, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "quip_engine", *words(job)],
        stdin=subprocess.DEVNULL,
        stdout=answer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _progress(process: subprocess.Popen[str], stop: Callable[[], bool]) -> Iterator[str]:
    """What the process says it does, again and again until it ends. Raises ``Stopped``."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stderr is not None
    threading.Thread(target=_hear, args=(process.stderr, said), daemon=True).start()
    now = "reading the model"
    while process.poll() is None:
        if stop():
            raise Stopped
        while not said.empty():
            now = said.get().strip() or now
        yield now
        time.sleep(LOOK)


def _hear(lines: IO[str], said: queue.SimpleQueue[str]) -> None:
    with lines:
        for line in lines:
            said.put(line)


def _answered(answer: str, status: int) -> Expectation:
    """The last line of the answer. Raises the error that it tells."""
    try:
        record = json.loads(answer.strip().splitlines()[-1])
    except (ValueError, IndexError):
        if status == -signal.SIGKILL:  # by the system, where memory is short
            fail("HOST_MEMORY", where="")
        raise RuntimeError(f"`expect` ended with status {status} and said nothing") from None
    if "error" in record:
        raise QuipError(record["error"], record["message"], record["hint"])
    return Expectation.from_json(record)
