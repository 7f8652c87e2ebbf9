"""Evaluate in a real Chromium: a run is measured, left, found again, judged, exported, and a long one is stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_model
from story import tell_finished
from test_browser import Visitor, serve, visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DRAWN = "id => Boolean(document.querySelector(`#${id} .plot`)?.data?.length)"
PLOTS = ("plot-size", "plot-along", "plot-blocks", "plot-layers")


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    """A page over one finished run: what it has made differs from its original in every layer."""
    home, folders = tmp_path / "home", [tiny_model(tmp_path / name, seed=k) for k, name in enumerate(("big", "small"))]
    tell_finished(home, *folders)
    with serve(home) as url, visiting(url) as visitor:
        yield visitor


def test_from_a_run_to_a_verdict(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Evaluate")
    visitor.until(lambda: "not measured yet" in page.inner_text("#results-table"), 30, "the run waits to be measured")
    page.get_by_role("button", name="Measure", exact=True).last.click()
    visitor.until(lambda: page.locator("#eval-seqlen input").input_value() == "64", 30, "the context of the model")
    page.locator("#eval-windows input").fill("8")
    page.locator("#eval-windows input").press("Tab")
    visitor.until(lambda: "8 windows of 64 tokens through both" in page.inner_text("#eval-price"), 60, "the price")
    page.click("#measure-button")
    visitor.until(lambda: page.locator("#evaluating").is_visible(), 60, "the evaluation starts")
    visitor.reload()
    visitor.tab("Evaluate")
    visitor.until(lambda: page.locator("#outcome").is_visible(), 180, "the verdict, after a reload")
    assert "the models agree on" in page.inner_text("#outcome")
    for plot in PLOTS:
        page.locator(f"#{plot}").scroll_into_view_if_needed()  # plots wait until they are near the window
        visitor.until(lambda plot=plot: page.evaluate(DRAWN, plot), 30, f"{plot} is drawn")
        assert page.locator(f"#{plot} .plot").get_attribute("aria-label")
    assert page.locator("#worst-tokens tbody tr").count() == 10
    assert page.locator("#results-table tbody tr").count() == 2  # the run and its original

    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").locator("visible=true").click()
    lines = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [float(line["perplexity"]) > 100 for line in lines] == [True, True]  # random weights

    page.locator("#eval-windows input").fill("8")
    page.click("#measure-button")
    visitor.until(lambda: "measured before" in page.inner_text("#eval-price"), 60, "it is known")

    page.locator("#eval-windows input").fill("0")
    page.click("#measure-button")
    visitor.until(lambda: page.locator("#plot-convergence").is_visible(), 180, "two windows are scored")
    page.locator("#plot-convergence").scroll_into_view_if_needed()
    visitor.until(lambda: page.evaluate(DRAWN, "plot-convergence"), 30, "it converges")
    assert "Evaluating" in visitor.strip()
    page.click("#stop-evaluation")
    visitor.until(lambda: not page.locator("#evaluating").is_visible(), 60, "it stops")
    assert page.locator("#measure-button").is_enabled()

    page.locator("#eval-seqlen input").fill("1")
    page.click("#measure-button")
    visitor.until(lambda: "BAD_SETTING" in page.inner_text("#eval-price"), 60, "what is wrong")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
