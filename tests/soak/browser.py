"""What attacks by a browser share: a Chromium that the studio knows, a server that notes what it is asked."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright import sync_api
from soak import Server

CHROMIUM = os.environ.get("QUIP_CHROMIUM") or shutil.which("chromium") or ""
EVIL = "evil.test"


class Recorder(ThreadingHTTPServer):
    """Notes what it is asked for; serves the pages of an attacker."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pages: dict[str, str] = {}
        recorder = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = recorder.pages.get(self.path)
                if page is None:
                    recorder.asked.append(self.path)
                self.send_response(200 if page is not None else 404)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write((page or "").encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@contextmanager
def chromium(server: Server) -> Iterator[sync_api.BrowserContext]:
    flags = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP *.{EVIL} 127.0.0.1, MAP {EVIL} 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(server.opening)  # from now on the browser is known
        page.wait_for_selector("#demo", timeout=120_000)
        yield context
        browser.close()
