"""Workers need compiled kernels: one set serves the data directories of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from quip_engine.files import data_home
from quip_engine.native import library


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    if library():
        (folder / "kernels").symlink_to(data_home() / "kernels")
    monkeypatch.setenv("QUIP_STUDIO_HOME", str(folder))
    return folder
