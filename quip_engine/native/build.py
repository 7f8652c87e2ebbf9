"""Compile the C files once, load them once.

    cc -O3 -march=native -c X.c  for each, on all cores
    cc -shared *.o  ->  <data directory>/kernels/<hash>.so

``-march=native`` is the dispatch on the CPU's features: the hash covers the macros the compiler defines for them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from quip_engine.errors import QuipError
from quip_engine.files import data_home, replacing

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
NATIVE = (("-march=native",), ("-mcpu=native",), ())  # the first the compiler knows
SECONDS = 120  # a compiler that takes longer is stuck


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had (``status`` says why) or ``QUIP_KERNELS`` is ``off``."""
    return None if os.environ.get("QUIP_KERNELS") == "off" else _loaded()[0]


def status() -> str:
    """In words: what the searches run on."""
    if os.environ.get("QUIP_KERNELS") == "off":
        return "plain torch (QUIP_KERNELS=off)"
    return _loaded()[1]


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library and what it was made with, or None and the reason."""
    if sys.platform == "win32":
        return None, "plain torch: the C kernels are built on Linux and macOS only"
    compiler = shlex.split(os.environ.get("CC", "")) or [c for c in COMPILERS if shutil.which(c)][:1]
    if not compiler:
        return None, "plain torch: there is no C compiler (cc, gcc or clang)"
    name = " ".join([Path(compiler[0]).name, *compiler[1:]])
    try:
        flags, features = _target(compiler)
        path = _library_path(features)
        if not path.exists():
            compile_to(path, compiler, flags)
        return ctypes.CDLL(str(path)), f"compiled kernels ({' '.join([name, *flags])})"
    except (OSError, QuipError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home directory
        said = getattr(error, "stderr", b"") or str(error).encode()
        return None, f"plain torch: {name} failed: {said.decode(errors='replace').strip()[:500]}"


def _target(compiler: list[str]) -> tuple[tuple[str, ...], bytes]:
    """Flags for this machine's CPU, and what the compiler defines with them: its version and the CPU's features."""
    for flags in NATIVE:
        command = [*compiler, *flags, "-dM", "-E", "-x", "c", os.devnull]
        found = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        if found.returncode == 0:
            return flags, found.stdout
    found.check_returncode()
    raise AssertionError


def _library_path(features: bytes) -> Path:
    digest = hashlib.sha256(features + repr(FLAGS).encode())
    for source in _sources():
        digest.update(source.name.encode() + source.read_bytes())
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    return data_home() / "kernels" / f"{digest.hexdigest()[:32]}{suffix}"


def compile_to(path: Path, compiler: list[str], flags: tuple[str, ...]) -> None:
    """Make the library of all C files. Raises ``QuipError``, ``OSError`` and ``subprocess.SubprocessError``."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # code is loaded from here
    with TemporaryDirectory() as folder, replacing(path) as temporary:

        def made(source: Path) -> str:
            to = Path(folder, source.name).with_suffix(".o")
            _run([*compiler, *FLAGS, *flags, "-c", "-o", str(to), str(source)])
            return str(to)

        with ThreadPoolExecutor(_cores()) as cores:
            objects = list(cores.map(made, (source for source in _sources() if source.suffix == ".c")))
        _run([*compiler, *flags, "-shared", "-o", str(temporary), *objects, "-lm"])


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)


def _sources() -> list[Path]:
    return sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")])
