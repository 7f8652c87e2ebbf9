"""What the soak commands share: rows of a result table, the two forms of a command, and a running studio.

Each command measures promises ("S3", "R1", ...) and ends with one line of JSON for machines, after a table on stderr
for people. ``--fast`` is the form of the test suite: the same attack, fewer of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "assets" / "demo-model"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


@dataclass
class Row:
    """One promise: what is wanted, and what was found."""

    row: str
    target: str
    result: str = ""
    held: bool = False
    problems: list[str] = field(default_factory=list)  # what broke it, in words

    def close(self, result: str, *, held: bool | None = None) -> Row:
        """Set the figures. Without ``held``, the promise held where no problem was noted."""
        self.result, self.held = result, not self.problems if held is None else held
        return self


def arguments(about: str | None, values: Sequence[str] | None = None, **options: dict[str, Any]) -> argparse.Namespace:
    """The flags of a command: ``--fast``, and ``options`` as ``name={"type": int, ...}``."""
    parser = argparse.ArgumentParser(description=(about or "").strip().split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="the short form of the test suite")
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    return parser.parse_args(values)


def report(rows: Sequence[Row]) -> int:
    """Print the table and the JSON line; exit status 0 where everything held, else 1."""
    print("| row | target | result | held |\n|---|---|---|---|", file=sys.stderr)
    for row in rows:
        print(f"| {row.row} | {row.target} | {row.result} | {'yes' if row.held else 'NO'} |", file=sys.stderr)
    for row in rows:
        for problem in row.problems[:20]:
            print(f"{row.row}: {problem}", file=sys.stderr)
    print(json.dumps([{k: v for k, v in asdict(row).items() if k != "problems"} for row in rows]), flush=True)
    return 0 if all(row.held for row in rows) else 1


class Server:
    """The studio as a person starts it, on a free port, over a data directory of its own (or ``home``).

    ``before``: words in front of the command (strace ...). ``url`` has no slash at its end, ``token`` and ``cookies``
    open the door; ``log`` is all it has written.
    """

    def __init__(
        self,
        *flags: str,
        home: Path | None = None,
        environment: dict[str, str] | None = None,
        before: Sequence[str] = (),
        online: bool = False,
    ) -> None:
        self._own = None if home else tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)
        self.home = home or Path(self._own.name if self._own else "") / "home"
        command = [*before, sys.executable, str(ROOT / "app.py"), "--no-browser", "--port", "0"]
        self.command = [*command, "--data-dir", str(self.home), *flags, *([] if online else ["--offline"])]
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Server:
        from helpers import share_kernels  # its own imports take seconds

        share_kernels(self.home)
        self._log = tempfile.TemporaryFile("w+")
        self.begin()
        return self

    def begin(self) -> None:
        """Start the process and wait until it says where it is."""
        pipes = {"stdout": subprocess.PIPE, "stderr": self._log, "text": True}
        self.process = subprocess.Popen(self.command, cwd=self.home, env=self.environment, **pipes)
        self.line = self.process.stdout.readline()
        found = re.search(r"http://\S+", self.line)
        if found is None:
            self.__exit__()
            raise RuntimeError(f"the studio did not start: {self.line}{self.log}")
        address = urlsplit(found[0])
        self.url, self.port = f"http://{address.netloc}", int(address.port or 0)
        self.opening = found[0]  # the address that was printed: opens the door
        self.token = parse_qs(address.query).get("token", [""])[0]
        self.cookies = {f"quip-studio-{self.port}": self.token} if self.token else {}
        self.cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def end(self, number: int) -> None:
        """End the process by a signal. ``begin`` starts it again at the same address."""
        self.process.send_signal(number)
        self.process.wait(20)
        self.process.stdout.close()
        self.command = [*self.command, "--port", str(self.port)]  # the last one counts

    @property
    def log(self) -> str:
        """All that was written to standard error."""
        self._log.seek(0)
        return self._log.read()

    def __exit__(self, *_: object) -> None:
        for process in workers(self.home):
            if "--data-dir" in process.info["cmdline"]:
                process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.stdout.close()
            for worker in workers(self.home):
                worker.kill()
            if self._own:
                self._own.cleanup()


def workers(home: Path) -> list[psutil.Process]:
    """Processes that work for a data directory: they outlive the server on purpose."""
    named = psutil.process_iter(["cmdline"])
    return [p for p in named if str(home) in (p.info["cmdline"] or []) and p.pid != os.getpid()]
