"""Tokenizer checks by the hundred: their child processes are forked from one that has the libraries loaded already.

In the place of ``subprocess`` in ``quip_engine.probe.tokenizer``; the child runs the same code under the same limits.
Started as a program it is the process that forks them: a question a line, an answer a line.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired
from typing import Any

PROBE = Path(__file__).parents[2] / "quip_engine" / "probe"
_servers: dict[int, subprocess.Popen[str]] = {}  # by process: a fork has one of its own


class Popen:
    """As much of it as the tokenizer check uses."""

    def __init__(self, command: list[str], **_settings: object) -> None:
        self.folder, self.cpu_seconds = command[-2], int(command[-1])
        self.returncode: int | None = None

    def communicate(self, text: str = "", timeout: float = 0.0) -> tuple[str, None]:
        if self.returncode is not None:  # it was ended
            return "", None
        server = _server()
        asked = {"folder": self.folder, "cpu_seconds": self.cpu_seconds, "template": text, "timeout": timeout}
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        self.returncode = answer["status"]
        if answer["late"]:
            raise TimeoutExpired("tokenizer", timeout)
        return answer["output"], None

    def kill(self) -> None:
        self.returncode = -9 if self.returncode is None else self.returncode


def _server() -> subprocess.Popen[str]:
    if os.getpid() not in _servers:
        pipes: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "stderr": DEVNULL}
        _servers[os.getpid()] = subprocess.Popen([sys.executable, __file__], text=True, **pipes)
    return _servers[os.getpid()]


def main() -> None:
    sys.path.insert(0, str(PROBE))
    import jinja2.sandbox  # noqa: F401 - what the child loads
    import tokenizer_child
    import tokenizers  # noqa: F401

    os.environ["RAYON_NUM_THREADS"] = "1"
    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(writing, 1)
            sys.stdout, sys.stdin = os.fdopen(1, "w", encoding="utf-8"), io.StringIO(asked["template"])
            status = 1
            try:
                tokenizer_child.main(Path(asked["folder"]), asked["cpu_seconds"])
                sys.stdout.flush()
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        status, late = _wait(pid, asked["timeout"])
        with os.fdopen(reading, encoding="utf-8") as file:
            output = file.read()
        print(json.dumps({"status": status, "late": late, "output": output}), flush=True)


def _wait(pid: int, seconds: float) -> tuple[int, bool]:
    """Exit status, and whether it had to be killed. What it says fits into a pipe."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), True


if __name__ == "__main__":
    main()
