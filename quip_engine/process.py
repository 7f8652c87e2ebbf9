"""How our processes behave beside others on the machine. No torch: settle this before torch is loaded."""

import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path

RETURNED_AT_ONCE = 1 << 21  # bytes; smaller ones come and go too often for a system call each
NICENESS = 5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def wait_patiently() -> None:
    """Let idle threads sleep instead of spin.

    OpenMP's default is to spin at the end of every small parallel region. On a machine that is busy with anything else
    a layer then takes ten times as long; on an idle one sleeping costs nothing that could be measured.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_way() -> None:
    """Let others go first: the page and the person before a worker.

    Linux shares a busy machine among sessions first, and niceness counts only within one; so a session that is this
    process's own is told, too.
    """
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))  # a worker that was started by a worker has it already
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # a kernel without such groups
            Path("/proc/self/autogroup").write_text(str(NICENESS))


def return_freed_memory() -> None:
    """Let the memory of large freed tensors go back to the system at once.

    glibc raises the size from which it does so with every large tensor that is freed, and then keeps up to half of
    what a run once needed.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, RETURNED_AT_ONCE)
        libc.mallopt(M_TRIM_THRESHOLD, RETURNED_AT_ONCE)


def return_small_memory() -> None:
    """Give back what many small freed tensors have left in the heap, which would creep up block by block."""
    if libc := _glibc():
        libc.malloc_trim(0)


def killed_for_memory() -> int | None:
    """How many processes this system has ended since it started because memory ran out; None where it does not tell."""
    try:
        facts = Path("/proc/vmstat").read_text()
    except OSError:
        return None
    found = re.search(r"^oom_kill (\d+)$", facts, re.MULTILINE)
    return int(found[1]) if found else None


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
