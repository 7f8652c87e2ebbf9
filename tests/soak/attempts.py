"""Many attempts in processes that one of them may end: who dies, hangs or takes much memory is told with its number."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers import forked, wait

from quip_engine.errors import QuipError

Prepare = Callable[[int], Callable[[], str]]
HUNG = 60.0  # seconds of a clock: nobody waits longer, whatever else the machine does


@dataclass(frozen=True)
class Attempt:
    """``outcome``: what the call returned, the code of its error, or ``defect``, ``died`` or ``hung`` with details."""

    number: int
    outcome: str
    seconds: float = 0.0  # of processors
    megabytes: float = 0.0  # above what the process had before

    @property
    def broke(self) -> bool:
        return self.outcome.startswith(("defect", "died", "hung"))


def attempts(prepare: Prepare, numbers: range, processes: int = 2) -> Iterator[Attempt]:
    """Make and do an attempt for each number, in no order that counts. A process that dies is followed by another.

    Only what ``prepare`` has returned is measured.
    """
    with selectors.DefaultSelector() as selector:
        for k in range(processes):
            _Child(selector, prepare, numbers[k::processes])
        while children := [key.data for key in selector.get_map().values()]:
            for key, _ in selector.select(1):
                yield from key.data.hear()
            for child in children:
                child.end_if_hung()


class _Child:
    def __init__(self, selector: selectors.BaseSelector, prepare: Prepare, numbers: range) -> None:
        self.selector, self.prepare, self.numbers = selector, prepare, numbers
        self.reading, writing = os.pipe()
        self.pid = forked(lambda: _work(prepare, numbers, writing))
        os.close(writing)
        self.rest, self.heard, self.hung = b"", time.monotonic(), False
        selector.register(self.reading, selectors.EVENT_READ, self)

    def hear(self) -> Iterator[Attempt]:
        data = os.read(self.reading, 1 << 16)
        self.heard = time.monotonic()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.numbers = self.numbers[1:]
            yield Attempt(**json.loads(line))
        if not data:
            self.selector.unregister(self.reading)
            os.close(self.reading)
            status = wait(self.pid)
            if self.numbers:
                yield Attempt(self.numbers[0], "hung" if self.hung else f"died of {status}")
                _Child(self.selector, self.prepare, self.numbers[1:])

    def end_if_hung(self) -> None:
        if not self.hung and time.monotonic() - self.heard > HUNG:
            self.hung = True
            os.kill(self.pid, signal.SIGKILL)


SLACK = 64 * 1024  # kB by which a peak of earlier attempts may count for a later one: to forget it takes milliseconds


def _work(prepare: Prepare, numbers: range, told: int) -> None:
    for number in numbers:
        attempt = prepare(number)
        before, began = _memory(), time.process_time()
        try:
            outcome = attempt()
        except QuipError as error:
            outcome = error.code
        except BaseException as error:
            where = traceback.extract_tb(sys.exc_info()[2])[-1]
            outcome = (
                f"defect: {type(error).__name__}: {error}"[:300] + f" ({Path(where.filename).name}:{where.lineno})"
            )
        found = {"number": number, "outcome": outcome, "seconds": time.process_time() - began}
        line = json.dumps({**found, "megabytes": (_kilobytes("VmHWM") - before) / 1024}).encode() + b"\n"
        os.write(told, line)


def _memory() -> int:
    """What this process has now, in kB; its peak is about that from now on."""
    if _kilobytes("VmHWM") > _kilobytes("VmRSS") + SLACK:
        Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("VmRSS")


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])
