"""Sizes, bits by hand, the best quality and what to expect, in a real Chromium; and tuning in the Monitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from story import layer_names, tell
from test_browser import Visitor, serve, sync_api, visiting

from app.expectations import Expectations
from app.library import DEMO
from quip_engine import events
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.expectation import Expectation, Point
from quip_engine.files import write_json
from quip_engine.probe import probe
from quip_engine.runs import Store

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = "id => Boolean(document.querySelector(`#${id} .plot`)?.data?.length)"


def expected() -> Expectation:
    """As though it had been measured."""
    layers = probe(str(DEMO)).linear_layers
    kls = {1.5: 0.24, 2: 0.12, 3: 0.03, 4: 0.007, 5: 0.002}
    points = [Point(bits, round(2e6 + 5e5 * bits), kl, kl / 10, 1 + kl, kl / 10, 1) for bits, kl in kls.items()]
    values = {layer.name: float(layer.block) for layer in layers}
    return Expectation("waterfill", points, list(range(5)), 5, 22, 16, 61.0, values)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    job = JobConfig(str(DEMO), "", RecipeConfig("waterfill", 2), CalibrationConfig())
    kept = Expectations(home)._file(job)
    kept.parent.mkdir()
    write_json(kept, expected().to_json())
    told_tuning(home)
    with serve(home) as address:
        yield address


def told_tuning(home: Path) -> None:
    _, log, _ = tell(Store(home))
    log.append(events.BitsAllocated("sensitivity", {x["name"]: 2.0 + x["block"] for x in layer_names()}, 0, 0))
    log.append(events.PhaseChanged("tune", "end-to-end"))
    log.append(events.TuningStarted("end-to-end", 4, 20, 4, 1000, 0.1, 9.0, 500.0))
    for step, kl in ((1, None), (2, 0.08), (3, None), (4, 0.09)):
        log.append(events.TuningProgress("end-to-end", step, 4, 0.07, kl, 0.08, float(step)))
    log.append(events.TuningFinished("end-to-end", 4, 0.1, 0.08, True, 9.0, 500.0))
    log.append(events.TuningStarted("pv", 4, 20, 4, 1000, 0.08, 9.0, 500.0))
    log.append(events.TuningFinished("pv", 4, 0.08, 0.08, False, 9.0, 500.0))
    log.close()


@pytest.fixture
def visitor(server: str) -> Iterator[Visitor]:
    with visiting(server) as visitor:
        yield visitor


def says(visitor: Visitor, *words: str) -> None:
    visitor.until(lambda: all(word in visitor.page.inner_text("#command") for word in words), 60, " ".join(words))


def press(page: sync_api.Page, group: str, name: str) -> None:
    page.locator(f"{group} label", has_text=name).click(position={"x": 6, "y": 6})


def type_into(page: sync_api.Page, selector: str, text: str) -> None:
    field = page.locator(f"{selector} :is(input, textarea)").first
    field.fill(text)
    field.blur()


def test_a_size_is_asked_shared_out_and_made_the_best(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Quantize")
    says(visitor, "--method 'quip#' --bits 2")
    press(page, "#bits", "Between")
    says(visitor, "--bits 2.5")
    assert page.locator("#rate").is_visible()

    press(page, "#preset", "Balanced")
    says(visitor, "--method waterfill --bits 2")
    visitor.until(lambda: page.locator("#plot-expect").is_visible(), 30, "what is expected is there again")
    page.locator("#expect-fold button").first.click()
    page.locator("#expect-fold [data-action='3']").click()
    says(visitor, "--bits 3")
    visitor.until(lambda: "At 3 bits: KL 3.00e-2" in page.inner_text("#plot-expect"), 30, "the chosen size")
    page.locator("#plot-bits").scroll_into_view_if_needed()
    visitor.until(lambda: page.evaluate(DRAWN, "plot-bits"), 30, "the map is drawn")
    page.locator("#bits-fold button").first.click()
    page.locator("#bits-fold [data-action='2 · v']").click()
    says(visitor, "--layer-bits 2.v_proj=")
    type_into(page, "#layers", "2.v_proj=4")
    says(visitor, "--layer-bits 2.v_proj=4")
    visitor.until(lambda: "1 layer by hand" in page.inner_text("#plot-bits"), 30, "the rest is shared out anew")

    press(page, "#sized", "Size of the files")
    says(visitor, "--size 3")
    type_into(page, "#size", "1 MB")
    visitor.until(lambda: "The smallest that works" in page.inner_text("#price"), 30, "what is possible")
    type_into(page, "#size", "3 MB")
    says(visitor, "--size 3000000")
    page.click("#best")
    says(visitor, "--method best", "--size 3000000", "--embeddings", "--tune")
    visitor.until(lambda: "It is chosen: method best" in page.inner_text("#sizing"), 30, "it says so")


def test_sizes_are_measured_on_request_and_that_can_be_stopped(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Quantize")
    says(visitor, "demo-model")
    press(page, "#sized", "Bits per weight")  # the size of the last visit is too large for this method
    press(page, "#preset", "Fast")
    says(visitor, "--method 'quip#'")
    page.click("#expect")
    visitor.until(lambda: page.locator("#expect-progress .progress").is_visible(), 30, "it measures")
    page.click("#expect-stop")
    visitor.until(lambda: not page.locator("#expect-progress").is_visible(), 30, "it ends")
    assert page.locator("#expect").is_enabled()


def test_the_monitor_shows_tuning_and_bits(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Monitor")
    visitor.until(lambda: page.evaluate(DRAWN, "plot-kl"), 30, "tuning is drawn")
    assert "8.00e-2 before it" in (page.locator("#plot-kl .plot").get_attribute("aria-label") or "")
    visitor.until(lambda: page.evaluate(DRAWN, "plot-allocated"), 30, "the bits are drawn")
    assert "Tuning pv was not kept" in page.inner_text("body")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
