"""S10: a hub token in the environment and in the cache of the hub, and a hub that says it back in its errors.

    python tests/soak/canary.py [--fast]

Every kind of job is done with it: quantize, measure, ask, check and download from a hub, push, and the commands. Then
the token is looked for in everything that was written, answered or started with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
from soak import DEMO, ROOT, Row, Server, arguments, report

from quip_engine.runs import Store, sharing

TOKEN = "hf_" + "CanaryToken7f3a91" * 2


class Hub(ThreadingHTTPServer):
    """A hub that refuses everything and repeats what it was sent."""

    def __init__(self) -> None:
        hub, self.heard = self, 0

        class Refusal(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = self.headers.get("authorization", "")
                hub.heard += TOKEN in sent
                body = f'{{"error": "{sent} may not do this"}}'.encode()
                self.send_response(403 if "canary" in self.path else 400)
                self.send_header("x-error-message", f"{sent} may not do this")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Refusal)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Places:
    """Where the token was found."""

    def __init__(self, row: Row) -> None:
        self.row, self.looked, self._done = row, 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def look(self, where: str, text: str) -> None:
        self.looked += 1
        if TOKEN in text:
            self.row.problems.append(f"{where}: {text[max(0, text.index(TOKEN) - 80) :][:160]!r}")

    def _watch(self) -> None:
        """Command lines of all processes, ten times a second."""
        while not self._done.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                if any(TOKEN in word for word in process.info["cmdline"] or ()):
                    self.row.problems.append(f"command line of {process.pid}")

    def close(self) -> None:
        self._done.set()
        self._watcher.join()


def page_jobs(server: Server, places: Places) -> None:
    """What is done from the page and by programs."""
    client = httpx.Client(base_url=server.url, cookies=server.cookies, timeout=120)

    def call(name: str, *data: object, **event: str) -> dict:
        number = functions[name]
        body = {"data": data, "fn_index": number, "session_hash": "s", "event_data": event or None}
        answer = client.post("/gradio_api/run/predict", json=body)
        places.look(name, answer.text)
        return answer.json()

    config = client.get("/config")
    places.look("/config", config.text)
    places.look("the page", client.get("/").text)
    functions = {f["api_name"]: f["id"] for f in config.json()["dependencies"]}
    run = call("start_run", str(DEMO), "nearest", 4.0, "", "bundled", 2, 16, 0, None)["data"][0]
    while (told := call("run_status", run["id"])["data"][0])["status"] in ("running", "starting"):
        time.sleep(1)
    if told["status"] != "done":
        places.row.problems.append(f"the run: {told}")
    measured = call("evaluate", told["out"], "", "bundled", 16, 1)["data"][0]
    while call("evaluation_status", measured["id"])["data"][0]["status"] == "running":
        time.sleep(1)
    call("generate", told["out"], "a", 2, 0.0, 1.0, 0, 0)
    for model in ("owner/canary", "owner/other"):
        call("start_run", model, "nearest", 4.0, "", "bundled", 2, 16, 0, None)
        call("start_run", str(DEMO), "nearest", 4.0, "", f"{model}:text", 2, 16, 0, None)
        for name in [n for n in functions if n.startswith("act")]:
            call(name, action=f"fetch:{model}")
    run_of = Store(server.home).get(run["id"])
    sharing.begin(run_of, sharing.Transfer("push", "owner/canary"), server.home, TOKEN)
    while (transfer := sharing.transfer_of(run_of)) and transfer.status == "working":
        time.sleep(0.2)
    places.look("the push", repr(sharing.transfer_of(run_of)))


def commands(environment: dict[str, str], folder: Path, places: Places) -> None:
    for command in (
        ("inspect", "owner/canary"),
        ("quantize", "owner/other", "--out", str(folder / "out")),
        ("quantize", str(DEMO), "--out", str(folder / "out"), "--calibration", "owner/canary"),
        ("evaluate", "owner/canary", "--text", str(ROOT / "README.md")),
        ("generate", "owner/other", "--prompt", "a"),
        ("inspect", TOKEN),
    ):
        words = [sys.executable, "-m", "quip_engine", *command[:-1], command[-1]]
        if TOKEN in words:
            words[-1] = TOKEN[:10]  # our own command line is not to be found
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        places.look(" ".join(command[:2]), done.stdout + done.stderr)


def main() -> int:
    flags = arguments(__doc__)
    row = Row("S10", "0 occurrences of the token in logs, database, page, checkpoint, command lines")
    hub, places = Hub(), Places(row)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cache = folder / "cache"
        cache.mkdir()
        (cache / "token").write_text(TOKEN, encoding="utf-8")
        os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(cache), "HF_TOKEN": TOKEN}
        with Server(home=folder / "home", environment=dict(os.environ), online=True) as server:
            page_jobs(server, places)
            places.look("the server's log", server.log)
        if not flags.fast:
            commands({**os.environ, "QUIP_STUDIO_HOME": str(folder / "home")}, folder, places)
        files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p != cache / "token"]
        for file in files:
            places.look(str(file.relative_to(folder)), file.read_bytes().decode("latin-1"))
    places.close()
    if not hub.heard:
        row.problems.append("the hub was never sent the token: nothing was tried")
    heard = f"the hub heard it {hub.heard} times"
    return report([row.close(f"{places.looked} places, {len(files)} files, {heard}: {len(row.problems)} occurrences")])


if __name__ == "__main__":
    raise SystemExit(main())
