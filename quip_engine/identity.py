"""What a result is made from: digests of files and code, and the words for what has changed.

Equal identities, equal bytes. A resumed run compares the whole identity, a running one looks at its files before and
after every block: size, time and number of a file tell that it was touched, its SHA-256 whether that has changed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import quip_engine
from quip_engine.errors import fail
from quip_engine.files import sha256

# Parts of the engine that no bit of a result depends on.
BESIDE = ("runs", "commands", "probe", "cli.py", "__main__.py", "hub.py", "estimate.py", "errors.py", "events.py")
Fingerprint = tuple[int, int, int]  # bytes, modified (ns), number of the file


def differences(before: dict[str, Any], now: dict[str, Any], within: str = "") -> list[str]:
    """Dotted names of the fields in which two records of plain values differ."""
    changed = []
    for key in sorted(before.keys() | now.keys()):
        old, new, name = before.get(key), now.get(key), f"{within}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            changed += differences(old, new, f"{name}.")
        elif old != new:
            changed.append(name)
    return changed


@cache
def code_digest() -> str:
    """SHA-256 over the engine's modules, kernels and tables, as they were when this process first asked."""
    folder = Path(quip_engine.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix in (".py", ".c", ".h", ".safetensors", ".json") and name.parts[0] not in BESIDE:
            digest.update(f"{name.as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


class Sources:
    """Files that must stay what they are while they are read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Reads them once."""
        self._seen = {path: _fingerprint(path) for path in paths}
        self.digests = {path.name: sha256(path) for path in self._seen}

    def check(self) -> None:
        """Raises ``SOURCE_CHANGED`` with the name of the first that is gone or has other bytes."""
        for path, seen in self._seen.items():
            try:
                now = _fingerprint(path)
                if now != seen and sha256(path) != self.digests[path.name]:
                    fail("SOURCE_CHANGED", file=path)
                self._seen[path] = now
            except OSError as error:
                fail("SOURCE_CHANGED", file=path, details=str(error))


def _fingerprint(path: Path) -> Fingerprint:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
