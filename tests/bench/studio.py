"""Measure the page in Chromium: how soon it answers, what a live run costs it, and who would be kept out.

    python tests/bench/studio.py        (some minutes on an idle machine; QUIP_CHROMIUM names the browser)

A run of 80 blocks of 7 projections is told by this process, one layer a second, to a server of its own. Figures are
printed as a table beside their targets; the exit status is 1 where one is missed.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from filelock import FileLock
from playwright import sync_api

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "app")]

from story import SHAPE, layer, layer_names, started  # noqa: E402

from app.main import TABS  # noqa: E402
from quip_engine import events  # noqa: E402
from quip_engine.config import JobConfig  # noqa: E402
from quip_engine.runs import EventLog, Store  # noqa: E402

CHROMIUM = os.environ.get("QUIP_CHROMIUM") or shutil.which("chromium") or ""
PROJECTIONS = tuple(f"self_attn.{p}_proj" for p in "qkvo") + tuple(f"mlp.{p}_proj" for p in ("gate", "up", "down"))
BLOCKS, DONE, WATCHED, REPEATS = 80, 440, 25, 5  # layers that are done at first, seconds that the page is watched
SWITCH = """name => new Promise(done => {
  const tab = [...document.querySelectorAll('[role=tab]')].find(t => t.textContent.trim() === name);
  const begun = performance.now();
  tab.click();
  const look = () => tab.getAttribute('aria-selected') === 'true'
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)))
    : requestAnimationFrame(look);
  look();
})"""
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


@dataclass
class Found:
    """Figures, each beside its target, and what went wrong on the way."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    received: list[tuple[float, int]] = field(default_factory=list)

    def add(self, what: str, value: float, limit: float, unit: str) -> None:
        self.rows.append((what, f"{value:.3g} {unit}".strip(), f"{limit:g} {unit}".strip(), value <= limit))


@contextmanager
def told_run(home: Path) -> Iterator[None]:
    """A run that is at work, as far as anybody can see, and finishes a layer a second."""
    store = Store(home)
    run = store.create(JobConfig("/models/large", str(home / "out")))
    log, names = EventLog(run.directory), layer_names(BLOCKS, PROJECTIONS)
    log.append(events.PhaseChanged("check"))
    log.append(started(names, model="/models/large"))
    log.append(events.PhaseChanged("quantize"))
    end = threading.Event()

    def tell() -> None:
        for k, name in enumerate(names):
            if k >= DONE and end.wait(1):
                return
            log.append(layer(name, 0.01 * (1 + (k * 37 % 101) / 50), shape=SHAPE))

    with FileLock(run.directory / "worker.lock"):
        store.update(run.id, status="running", started=time.time())
        teller = threading.Thread(target=tell)
        teller.start()
        try:
            yield
        finally:
            end.set()
            teller.join()
            log.close()


@contextmanager
def served(home: Path) -> Iterator[str]:
    command = [sys.executable, "app.py", "--no-browser", "--offline", "--port", "0", "--data-dir", str(home)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait(20)


def watch(page: sync_api.Page, url: str, found: Found) -> None:
    """Remember errors, requests to elsewhere, and what arrives. What a reload breaks off is no error."""

    def heard(message: sync_api.ConsoleMessage) -> None:
        if message.type == "error" and "abort" not in message.text.lower() and "errored out" not in message.text:
            found.problems.append(f"console: {message.text}")

    def asked(request: sync_api.Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws") and not request.url.startswith(
            url.partition("?")[0]
        ):
            found.problems.append(f"request to {request.url}")

    def received(response: sync_api.Response) -> None:
        if "/gradio_api/" in response.url and response.request.method == "POST":
            with suppress(sync_api.Error):  # the page has gone on meanwhile
                found.received.append((time.monotonic(), len(response.body())))

    page.on("console", heard)
    page.on("pageerror", lambda error: found.problems.append(f"page: {error}"))
    page.on("request", asked)
    page.on("response", received)


def opened(page: sync_api.Page, url: str) -> float:
    begun = time.monotonic()
    page.goto(url)
    page.wait_for_selector("#demo")
    page.wait_for_function("() => document.querySelector('#job')?.textContent.includes('layer')")
    return time.monotonic() - begun


def busy(session: sync_api.CDPSession) -> float:
    """Seconds of processor time that the page's main thread has taken so far."""
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def measure(page: sync_api.Page, url: str, found: Found) -> None:
    opened(page, url)  # the first visitor warms the server up
    found.add("first page, until it answers", opened(page, url), 4, "s")
    for name in TABS:
        page.evaluate(SWITCH, name)
    slowest = max(page.evaluate(SWITCH, name) for name in [*TABS, *TABS])
    found.add("slowest switch between tabs", slowest, 300, "ms")
    page.evaluate(SWITCH, "Monitor")
    page.wait_for_selector("#plot-loss .main-svg")
    page.wait_for_timeout(3000)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    found.received.clear()
    shares, begun = [], time.monotonic()
    for _ in range(REPEATS):
        before, started = busy(session), time.monotonic()
        page.wait_for_timeout(1000 * WATCHED / REPEATS)
        shares.append(1000 * (busy(session) - before) / (time.monotonic() - started))
    spent = time.monotonic() - begun
    found.add("received while a run is live", sum(n for _, n in found.received) / spent / 1000, 20, "kB/s")
    found.add("main thread while a run is live, least", min(shares), 50, "ms/s")
    found.add("main thread while a run is live, median", statistics.median(shares), 50, "ms/s")
    page.reload()
    begun = time.monotonic()
    page.wait_for_selector("#demo")
    page.wait_for_function("() => document.querySelector('#job')?.textContent.includes('layer')")
    found.add("a live run is back after a reload", time.monotonic() - begun, 3, "s")


def barriers(page: sync_api.Page, found: Found) -> None:
    """Violations of level A and AA on every tab, in light and dark, outside Gradio's own widgets."""
    ours, theirs = 0, set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for name in TABS:
            page.evaluate(SWITCH, name)
            page.wait_for_timeout(500)
            for violation in Axe().run(page, options=RULES).response["violations"]:
                for node in violation["nodes"]:
                    if in_a_widget(page, node["target"][-1]):
                        theirs.add(f"{violation['id']} ({name})")
                    else:
                        ours += 1
                        found.problems.append(f"{name}, {scheme}: {violation['id']}: {node['html'][:160]}")
    found.add("violations of WCAG A and AA in what is ours", ours, 0, "")
    if theirs:
        print(f"In Gradio's own widgets: {', '.join(sorted(theirs))}", file=sys.stderr)


def in_a_widget(page: sync_api.Page, selector: str) -> bool:
    """Whether an element is drawn by one of Gradio's components, and not by our markup within ``gr.HTML``."""
    script = "s => { const e = document.querySelector(s); return !!e && !e.closest('.html-container, #strip'); }"
    return bool(page.evaluate(script, selector))


def main() -> int:
    found = Found()
    with (
        tempfile.TemporaryDirectory(prefix="quip-studio-") as name,
        told_run(Path(name)),
        served(Path(name)) as url,
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(120_000)
        watch(page, url, found)
        measure(page, url, found)
        barriers(page, found)
        browser.close()
    found.add("errors, and requests to elsewhere", len([p for p in found.problems if ", " not in p[:16]]), 0, "")
    print("| what | measured | at most | |\n|---|---|---|---|")
    for what, value, limit, good in found.rows:
        print(f"| {what} | {value} | {limit} | {'' if good else 'missed'} |")
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return 0 if all(good for *_, good in found.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
