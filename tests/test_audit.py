"""What is said of installed packages: their holes, or that nobody could be asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "soak"))

import audit

SAFE = {"name": "safe", "version": "1", "vulns": []}
UNKNOWN = {"name": "local", "skip_reason": "not found"}
HOLE = {"name": "leaky", "version": "2", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}


def pip_audit(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """A program of that name, which says this."""
    (folder / "pip_audit").mkdir()
    (folder / "pip_audit" / "__init__.py").touch()
    (folder / "pip_audit" / "__main__.py").write_text(f"print({says!r})")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "argv", ["audit.py"])


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ([SAFE], (0, "1 packages, 0 advisories")),
        ([SAFE, HOLE], (1, "2 packages, 2 advisories")),
        ([SAFE, UNKNOWN], (0, "2 packages, 0 advisories; not known to the index: local")),
    ],
)
def test_advisories_are_counted(tmp_path, monkeypatch, capsys, packages, expected) -> None:
    pip_audit(tmp_path, monkeypatch, json.dumps({"dependencies": packages}))
    status, result = expected
    assert audit.main() == status
    said = capsys.readouterr()
    assert result in said.out
    assert status == 0 or "leaky 2: CVE-1" in said.err


@pytest.mark.parametrize("says", ["ConnectionError", json.dumps({"dependencies": [UNKNOWN]})])
def test_an_index_that_is_silent_is_no_pass(tmp_path, monkeypatch, capsys, says) -> None:
    pip_audit(tmp_path, monkeypatch, says)
    assert audit.main() == audit.NOT_ASKED
    assert "index could not be asked" in capsys.readouterr().err


def test_versions_below_a_floor_are_named(monkeypatch) -> None:
    monkeypatch.setattr(audit, "FLOORS", {"torch": (99,)})
    assert audit.floors().problems and not audit.floors().held
