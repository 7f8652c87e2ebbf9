"""What a newcomer does, in a real Chromium, on the real demo model; and nothing may go wrong beside it.

Every page is watched: an error on its console or a request to another host fails the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers import share_kernels

from app.forms import is_dense
from quip_engine.methods import presets_by_age

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NAMES = (os.environ.get("QUIP_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if name and (path := shutil.which(name))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
POINTS = """() => (document.querySelector('#plot-loss .plot')?.data || [])
    .filter(t => t.name === 'this run').flatMap(t => t.y).filter(v => v !== null).length
    + document.querySelectorAll('#plot-loss .marks .point').length"""
MOST_TOLD = 4000  # letters of the page in what a test says when it waited in vain
BROKEN_OFF = ("console: AbortError: signal is aborted", "console: Unexpected error Connection errored out")
RANGE = "() => document.querySelector('#plot-loss .plot').layout.xaxis.range.map(v => Math.round(100 * v) / 100)"


@contextmanager
def serve(home: Path, *, online: bool = False) -> Iterator[str]:
    """The app as a person starts it, over a data directory, offline unless told otherwise; gives its address."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: set QUIP_CHROMIUM, or install chromium")
    command = [sys.executable, "app.py", "--no-browser", "--port", "0", "--data-dir", str(share_kernels(home))]
    command += [] if online else ["--offline"]
    environment = {**os.environ, "GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0"}  # flags win over these
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("QuIP Studio is ready: http://127.0.0.1:"), line
    try:
        yield line.split()[4]
    finally:
        process.terminate()
        assert process.wait(timeout=20) is not None
    assert process.stdout.read() == ""  # one line, and no more


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In a data directory of its own."""
    with serve(tmp_path_factory.mktemp("home")) as address:
        yield address


class Visitor:
    """A browser page that remembers what went wrong and what arrived."""

    def __init__(self, page: sync_api.Page, url: str) -> None:
        self.page, self.address, self.url = page, url, url.partition("/?")[0]
        self.problems: list[str] = []
        self.arrived: list[tuple[float, int]] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", self._asked)
        page.on("response", self._received)

    def _heard(self, message: sync_api.ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _asked(self, request: sync_api.Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https", "ws") and not request.url.startswith(self.url):
            self.problems.append(f"request to {request.url}")

    def _received(self, response: sync_api.Response) -> None:
        """Told by its head: a page that is left takes the bodies with it."""
        if "/gradio_api/" in response.url and response.request.method == "POST":
            self.arrived.append((time.monotonic(), int(response.headers["content-length"])))

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_selector("#demo", timeout=60_000)

    def reload(self) -> None:
        """Load the page anew; what the old page was in the midst of breaks off, and it says so."""
        before = len(self.problems)
        self.page.reload()
        broken_off = [told for told in self.problems[before:] if told.startswith(BROKEN_OFF)]
        self.problems = [told for told in self.problems if told not in broken_off]
        self.page.wait_for_selector("#demo", timeout=60_000)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait for something to be seen; returns how long it took."""
        started = time.monotonic()
        while not true():
            assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s; {self.told()!r}"
            self.page.wait_for_timeout(50)
        return time.monotonic() - started

    def strip(self) -> str:
        return self.page.inner_text("#job")

    def told(self) -> list[str]:
        """What the page says now: the job, the open tab, and every problem, on the page or its console."""
        said = self.page.locator(".banner:visible, [role=tabpanel]:visible").all_inner_texts()
        return [self.strip(), *(text[:MOST_TOLD] for text in said), *self.problems]

    def points(self) -> int:
        return int(self.page.evaluate(POINTS))


@contextmanager
def visiting(url: str) -> Iterator[Visitor]:
    """A visitor whose page is open, and who must have met no problem in the end."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        visitor = Visitor(page, url)
        visitor.open()
        yield visitor
        browser.close()
    assert visitor.problems == []


@pytest.fixture
def visitor(server: str) -> Iterator[Visitor]:
    with visiting(server) as visitor:
        yield visitor


def test_from_the_first_screen_to_a_chat(visitor: Visitor) -> None:
    page = visitor.page
    assert page.locator(".patches svg").count() == 3
    page.click("#demo")
    visitor.until(lambda: "Running" in visitor.strip(), 30, "the demo starts")
    assert page.get_by_role("tab", name="Monitor").get_attribute("aria-selected") == "true"
    visitor.until(lambda: visitor.points() >= 2, 120, "two layers are drawn")
    before = visitor.points()
    visitor.until(lambda: visitor.points() > before, 60, "more layers are drawn")
    visitor.until(lambda: "Done" in visitor.strip(), 600, "the run ends")
    visitor.until(lambda: visitor.points() == 35, 20, "every layer is drawn")
    assert "2.01 bits per weight" in visitor.strip()

    page.click("#act")
    fits = page.locator("#talk-fits")
    visitor.until(lambda: fits.count() and "they answer" in fits.inner_text(), 30, "both models are chosen")
    page.locator("#prompt textarea").fill("The old house stood")
    page.locator("#prompt textarea").press("Enter")
    both = ("#answer-left", "#answer-right")
    visitor.until(lambda: all("tok/s" in page.inner_text(side) for side in both), 90, "both models write")
    assert all("The old house stood" in page.inner_text(side) for side in both)
    visitor.until(lambda: page.locator("#send").is_enabled(), 90, "both answers end")


def test_a_run_is_followed_left_found_again_stopped_and_resumed(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Quantize")
    visitor.until(lambda: "demo-model" in page.inner_text("#command"), 30, "the price")
    page.get_by_text("Recipe: transform").click()
    page.get_by_label("Sweeps").locator("visible=true").fill("40")  # slow enough to watch
    page.locator("#samples input").fill("192")
    visitor.until(lambda: "--samples 192" in page.inner_text("#command"), 30, "the command follows the form")
    assert "sweeps=40" in page.inner_text("#command")
    page.click("#start")
    visitor.until(lambda: "Running" in visitor.strip(), 60, "the run starts")
    visitor.until(lambda: visitor.points() >= 2, 180, "two layers are drawn")

    page.evaluate("() => { document.querySelector('#plot-loss .plot').dataset.mine = 'yes'; }")
    box = page.locator("#plot-loss .plot .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 102, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    zoomed, drawn = page.evaluate(RANGE), visitor.points()
    visitor.arrived.clear()
    started = time.monotonic()
    visitor.until(lambda: visitor.points() >= drawn + 3 and time.monotonic() - started > 8, 240, "three more layers")
    assert page.evaluate(RANGE) == zoomed
    assert page.evaluate("() => document.querySelector('#plot-loss .plot').dataset.mine") == "yes"
    rate = sum(size for _, size in visitor.arrived) / (time.monotonic() - started)
    print(f"page updates while the run is live: {rate / 1000:.1f} kB/s")
    assert rate < 20_000

    visitor.reload()
    took = visitor.until(lambda: "layer" in visitor.strip(), 3, "the run is back after a reload")
    print(f"after a reload the run was back {took:.1f} s after the page")
    page.click("#strip-open")
    visitor.until(lambda: visitor.points() > drawn, 10, "the plots are back after a reload")

    page.click("#strip-pause")
    visitor.until(lambda: "Pausing" in visitor.strip() or "Paused" in visitor.strip(), 3, "Pause is heard")
    visitor.until(lambda: "Paused" in visitor.strip(), 120, "the run pauses")
    assert page.inner_text("#act") == "Resume"
    page.click("#act")
    visitor.until(lambda: "Running" in visitor.strip(), 60, "the run resumes")
    page.click("#stop-now")
    page.click("#stop-now-sure")
    visitor.until(lambda: "Stopped" in visitor.strip(), 10, "the run stops at once")


def start_from(page: sync_api.Page, method: str) -> None:
    page.get_by_label("Start from").click()
    page.get_by_role("option", name=re.compile(rf"^{re.escape(method)} ")).click()


def says(visitor: Visitor, *words: str) -> None:
    visitor.until(lambda: all(word in visitor.page.inner_text("#command") for word in words), 30, " ".join(words))


def custom_recipe(visitor: Visitor) -> None:
    visitor.tab("Quantize")
    says(visitor, "demo-model")
    visitor.page.get_by_text("Recipe: transform").click()
    visitor.page.locator("#preset").get_by_text("Custom").click()


def test_options_of_presets_and_words_for_numbers_reach_the_command(visitor: Visitor) -> None:
    page = visitor.page
    custom_recipe(visitor)
    start_from(page, "optq")
    says(visitor, "--method optq")
    page.get_by_label("Act order").locator("visible=true").uncheck()
    says(visitor, "--option act_order=false")
    assert page.get_by_label("Order", exact=True).locator("visible=true").input_value() == "reversed"

    start_from(page, "quip")
    says(visitor, "--method quip --bits 2")
    rho = page.get_by_label("Rho").locator("visible=true")
    rho.fill("search")
    rho.press("Enter")
    says(visitor, "--option rho=search")
    rho.fill("serch")
    rho.press("Enter")
    visitor.until(lambda: page.get_by_text("Allowed: a number from 0.1 to 20 or search.").is_visible(), 10, "the mark")


def test_a_preset_with_many_bitrates_has_a_slider(visitor: Visitor) -> None:
    dense = next((preset.name for preset in presets_by_age() if is_dense(preset)), None)
    if dense is None:
        pytest.skip("no preset has many bitrates")
    page = visitor.page
    custom_recipe(visitor)
    start_from(page, dense)
    says(visitor, f"--method {dense} --bits 2")
    assert not page.locator("#bits").is_visible()
    page.locator("#rate input[type=number]").fill("2.35")
    says(visitor, "--bits 2.35")
    page.locator("#rate input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    says(visitor, "--bits 2.4")
    page.locator("#rate input[type=number]").fill("2.33")
    says(visitor, "--bits 2.33")
    page.locator("#rate input[type=number]").fill("9")
    visitor.until(lambda: page.get_by_text("Value 9 is greater than maximum value 5").count() > 0, 10, "the limit")
    page.locator("#rate input[type=number]").blur()
    says(visitor, "--bits 5")
    start_from(page, "quip#")
    says(visitor, "--method 'quip#' --bits 4")
    assert page.locator("#bits").is_visible()
    assert not page.locator("#rate").is_visible()


def test_wrong_models_are_explained(visitor: Visitor) -> None:
    page = visitor.page
    for typed, code in {"/no/such/folder": "NOT_FOUND", "a b c": "NOT_FOUND", "owner/<b>x": "BAD_HUB_ID"}.items():
        page.locator("#other-model input").fill(typed)
        page.click("#check")
        visitor.until(lambda code=code: page.locator("#verdict", has_text=code).count() > 0, 30, code)
    page.locator("#other-model input").fill(str(ROOT / "assets" / "demo-model"))
    page.click("#check")
    visitor.until(lambda: "can be quantized" in page.inner_text("#verdict"), 60, "the demo model is fine")
    page.click("#use")
    visitor.until(lambda: page.locator("#start").is_visible(), 5, "Quantize opens")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_is_wider_than_the_screen(visitor: Visitor, width: int, scheme: str) -> None:
    page = visitor.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    for name in ("Models", "Quantize", "Monitor", "Compare"):
        visitor.tab(name)
        page.wait_for_timeout(400)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
