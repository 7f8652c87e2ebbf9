"""S12: nobody but this machine is asked anything while the studio is offline.

    python tests/soak/offline.py [--fast]

A model is quantized, measured and asked, and the studio is started and visited, under ``strace``: every ``connect`` of
every process is noted. Where strace is missing, Python's own audit hook notes what it can (``socket.connect``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from soak import DEMO, ROOT, Row, Server, arguments, report

from quip_engine.runs import Store

ADDRESS = re.compile(r'connect\(.*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')
HOOK = """import os, sys
def note(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        with open(os.environ["SOAK_CONNECTS"], "a") as file: file.write(f'connect(inet_addr("{given[1][0]}"))\\n')
sys.addaudithook(note)
"""


class Watch:
    """A way to start processes whose connections are noted in ``notes``."""

    def __init__(self, folder: Path) -> None:
        self.notes, self.calls = folder / "connects", 0
        works = (
            shutil.which("strace")
            and not subprocess.run(["strace", "-qq", "true"], check=False, stderr=subprocess.DEVNULL).returncode
        )
        self.prefix = (
            ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-A", "-o", str(self.notes)]
            if works
            else []
        )
        self.how = "strace" if works else "audit hook"
        self.environment = {**os.environ, "SOAK_CONNECTS": str(self.notes), "HF_HUB_OFFLINE": "1"}
        if not works:
            (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
            self.environment["PYTHONPATH"] = str(folder)

    def run(self, *command: str) -> None:
        subprocess.run(
            [*self.prefix, sys.executable, *command], check=True, cwd=ROOT, env=self.environment, capture_output=True
        )
        self.calls += 1

    def elsewhere(self) -> list[str]:
        """Addresses of other machines that were connected to."""
        text = self.notes.read_text(errors="replace") if self.notes.exists() else ""
        found = {a or b for a, b in ADDRESS.findall(text)}
        return sorted(a for a in found if not a.startswith("127.") and a not in ("::1", "0.0.0.0", "::"))


def visit(server: Server) -> None:
    """The page, and a run that is started from it."""
    client = httpx.Client(base_url=server.url, cookies=server.cookies, timeout=120)
    client.get("/")
    call = {"data": [str(DEMO), "nearest", 4.0, "", "bundled", 2, 16, 0, None]}
    client.post("/gradio_api/call/start_run", json=call).raise_for_status()
    store, begun = Store(server.home), time.monotonic()
    while not (runs := store.list()) or runs[0].status != "done":
        if time.monotonic() - begun > 300:
            raise TimeoutError(f"the run does not end: {runs}; {server.log}")
        time.sleep(0.5)


def main() -> int:
    flags = arguments(__doc__)
    row = Row("S12", "0 connections to other machines in a full run")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        watch = Watch(folder)
        watch.environment["QUIP_STUDIO_HOME"] = str(folder / "home")
        made, quick = str(folder / "made"), ["--samples", "2", "--seqlen", "16"]
        engine = ("-m", "quip_engine")
        watch.run("-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))")  # that the watch sees anything
        seen = watch.notes.exists() and "127.0.0.1" in watch.notes.read_text(errors="replace")
        watch.run(*engine, "quantize", str(DEMO), "--out", made, "--method", "nearest", "--bits", "4", *quick)
        if not flags.fast:
            text = folder / "text.txt"
            text.write_text("The old house stood at the end of the road. " * 50, encoding="utf-8")
            watch.run(*engine, "inspect", str(DEMO))
            watch.run(*engine, "evaluate", made, "--text", str(text), "--seqlen", "64", "--against", str(DEMO))
            watch.run(*engine, "generate", made, "--prompt", "The old house", "--tokens", "4")
            with Server(home=folder / "home", environment=watch.environment, before=watch.prefix) as server:
                visit(server)
            watch.calls += 1
        row.problems = watch.elsewhere() + ([] if seen else ["the watch sees nothing"])
    return report(
        [row.close(f"{watch.calls} programs under {watch.how}: {len(row.problems)} connections to elsewhere")]
    )


if __name__ == "__main__":
    raise SystemExit(main())
