"""The C kernels as compiled for older CPUs."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from quip_engine.native import build

TARGETS = ("x86-64-v3", "x86-64")


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """Libraries by target; empty where no compiler knows the targets."""
    compiler, folder = next(filter(shutil.which, build.COMPILERS), None), tmp_path_factory.mktemp("kernels")
    libraries = {}
    for target in TARGETS if compiler else ():
        path = Path(folder, f"{target}.so")
        command = [
            str(compiler),
            *build.FLAGS,
            f"-march={target}",
            "-o",
            str(path),
            *map(str, build.SOURCES.glob("*.c")),
        ]
        if subprocess.run([*command, "-lm"], capture_output=True, check=False).returncode == 0:
            libraries[target] = ctypes.CDLL(str(path))
    return libraries
