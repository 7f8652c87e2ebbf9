"""How our processes behave beside others on the machine. No torch: settle this before torch is loaded."""

import ctypes
import os
import re
import sys
from pathlib import Path

RETURNED_AT_ONCE = 1 << 21  # bytes; smaller ones come and go too often for a system call each
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def wait_patiently() -> None:
    """Let idle threads sleep instead of spin.

    OpenMP's default is to spin at the end of every small parallel region. On a machine that is busy with anything else
    a layer then takes ten times as long; on an idle one sleeping costs nothing that could be measured.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
