"""Fixtures of the whole suite. ``tests`` is importable as a folder: ``from helpers import tiny_model``."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

TARGETS = ("x86-64-v3", "x86-64")  # older CPUs

sys.path.insert(0, str(Path(__file__).parent))

from helpers import share_kernels  # noqa: E402


@pytest.fixture
def reference() -> Path:
    """The folder of reference data named by QUIP_REFERENCE; skips the test where there is none."""
    folder = os.environ.get("QUIP_REFERENCE", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("QUIP_REFERENCE names no folder of reference data")
    return Path(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of its own: runs, history and settings stay inside this test."""
    folder = share_kernels(tmp_path / "home")
    monkeypatch.setenv("QUIP_STUDIO_HOME", str(folder))
    return folder


@pytest.fixture
def assets() -> Path:
    """The project's own demo model and texts."""
    return Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The C kernels as compiled for older CPUs, by target; empty where no compiler knows the targets."""
    from quip_engine.native import build

    compiler, folder = next(filter(shutil.which, build.COMPILERS), None), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes
    libraries = {}
    for target in TARGETS if compiler else ():
        path = folder / f"{target}.so"
        with FileLock(f"{path}.lock"), suppress(subprocess.CalledProcessError):
            if not path.exists():
                build.compile_to(path, [str(compiler)], (f"-march={target}",))
            libraries[target] = ctypes.CDLL(str(path))
    return libraries
