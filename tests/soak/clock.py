"""A time of day that jumps, for a process and those it forks."""

from __future__ import annotations

import mmap
import struct
import time

DAY = 86400.0


class Clock:
    """The time of day, as this process and the workers it forks are told."""

    def __init__(self) -> None:
        self._shared, self._real = mmap.mmap(-1, 8), time.time

    def __call__(self) -> float:
        return self._real() + struct.unpack("d", self._shared[:])[0]

    def jump(self, days: float) -> None:
        self._shared[:] = struct.pack("d", self() - self._real() + days * DAY if days else 0.0)
