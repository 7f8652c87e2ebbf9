"""A hub on this machine: the few answers that a download and a search need, slow or broken where a test asks for it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"  # stored by the hash of its content


class FakeHub:
    """Serves the folders of ``models`` (by hub id). ``asked``: (method, path, Range) of every request for a file."""

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.asked: list[tuple[str, str, str]] = []
        self.bytes_per_second = 0.0  # 0: as fast as it goes
        self.cut_after = 0  # bytes of each answer after which the connection breaks; 0: never
        self.stalled = threading.Event()  # once set, no answer goes on
        self.spoil = False  # the content is not what its tag says
        self.url = ""

    def about(self, name: str) -> dict[str, Any]:
        folder = self.models[name]
        config = json.loads((folder / "config.json").read_text())
        files = [{"rfilename": f.name, "size": f.stat().st_size} for f in sorted(folder.iterdir())]
        known = {key: config[key] for key in ("architectures", "model_type", "quantization_config") if key in config}
        gated = "manual" if name in self.gated else False
        facts = {"id": name, "sha": REVISION, "siblings": files, "config": known, "gated": gated, "downloads": 4321}
        return facts | {"tags": ["license:apache-2.0"], "safetensors": {"parameters": {"F32": 1000}, "total": 1000}}


def answers(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = url.path.strip("/")
            if path == "api/models":
                words = parse_qs(url.query).get("search", [""])[0].lower()
                return self.send_json([hub.about(name) for name in hub.models if words in name.lower()])
            if path.startswith("api/models/"):
                name = "/".join(path.split("/")[2:4])
                if name not in hub.models:
                    return self.refuse(401, "RepoNotFound")
                about = hub.about(name)
                files = [(f["rfilename"], f["size"]) for f in about["siblings"]]
                listed = [{"type": "file", "path": name, "size": size, "oid": ""} for name, size in files]
                return self.send_json(listed if "/tree/" in path else about)
            owner, model, _, _, file = path.split("/", 4)
            if f"{owner}/{model}" in hub.gated:
                return self.refuse(403, "GatedRepo")
            self.send_file(hub.models[f"{owner}/{model}"] / file)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, path: Path) -> None:
            body, ask = path.read_bytes(), self.headers.get("Range", "")
            kind = hashlib.sha256 if path.suffix == LARGE else hashlib.sha1
            tag = kind(body).hexdigest()
            hub.asked.append((self.command, path.name, ask))
            start = int(ask.removeprefix("bytes=").partition("-")[0]) if ask else 0
            self.send_response(206 if ask else 200)
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(body) - start))
            if ask:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if self.command == "GET":
                self.send_slowly((b"\0" * len(body) if hub.spoil else body)[start:])

        def send_slowly(self, body: bytes) -> None:
            for at in range(0, len(body), 4096):
                while hub.stalled.is_set():
                    time.sleep(0.01)
                if hub.cut_after and at >= hub.cut_after:
                    self.close_connection = True
                    self.connection.close()
                    return
                if hub.bytes_per_second:
                    time.sleep(4096 / hub.bytes_per_second)
                try:
                    self.wfile.write(body[at : at + 4096])
                except OSError:
                    return

    return Answers


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.stalled.clear()
        server.shutdown()
        server.server_close()
