"""The Runs tab as a person uses it, over runs that are already there and workers that really work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from story import tell
from test_browser import CHROMIUM, QUIET, Visitor, serve, sync_api, visiting

from quip_engine.runs import Store

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RESULT = {"type": "RunFinished", "out": "/nowhere", "method": "quip#", "bits": 2, "bits_per_weight": 2.03}
RESULT |= {"bytes": 5_000_000, "seconds": 42.0, "peak_rss_mb": 1.0, "mean_rel_proxy": 0.0121, "skipped": []}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are done, one that is paused and holds the queue, two that wait."""
    home = tmp_path_factory.mktemp("home")
    store = Store(home)
    for loss in (0.01, 0.02):
        run, log, _ = tell(store, loss)
        log.close()
        store.update(run.id, status="done", started=1.0, finished=43.0, result=RESULT)
    run, log, _ = tell(store)
    log.close()
    store.update(run.id, status="paused", holds=1, started=1.0, finished=9.0)
    for _ in range(2):
        store.create(run.job, queued=True)
    return home


@pytest.fixture
def visitor(history: Path) -> Iterator[Visitor]:
    with serve(history) as url, visiting(url) as visitor:
        yield visitor


def test_runs_are_found_compared_described_reported_and_deleted(visitor: Visitor, history: Path) -> None:
    page, store = visitor.page, Store(history)
    visitor.tab("Runs")
    says = page.locator("#run-card")
    visitor.until(lambda: "run 3" in says.inner_text(), 30, "the run that was started last is shown")
    assert "run 3 is paused" in page.inner_text("#queue")

    page.click("[data-action='down:run-4']")
    visitor.until(lambda: [run.id for run in store.queue()] == ["run-5", "run-4"], 20, "the queue is arranged")
    page.click("[data-action='remove:run-5']")
    visitor.until(lambda: page.locator("#queue tbody tr").count() == 1, 20, "a waiting run is removed")

    page.click("[data-action='mark:run-1']")
    page.click("[data-action='mark:run-2']")
    visitor.until(lambda: page.locator("#plot-several .scatterlayer .trace").count() == 2, 30, "both are drawn")
    assert "They differ in nothing but their results." in page.inner_text("#differences")

    page.click("[data-action='select:run-2']")
    visitor.until(lambda: "run 2" in says.inner_text(), 20, "another run is shown")
    page.click("#run-edit")
    visitor.until(lambda: page.locator("#run-tags input").is_visible(), 20, "the fields")
    visitor.until(lambda: "tiny" in page.locator("#run-name input").input_value(), 20, "they are filled")
    page.locator("#run-name input").fill("the good <b>one")
    page.locator("#run-tags input").fill("paper")
    page.click("#run-save")
    visitor.until(lambda: "the good <b>one" in says.inner_text(), 20, "the new name")
    page.locator("#runs-filter input").press_sequentially("PAPER")
    visitor.until(lambda: page.locator("#runs-table tbody tr").count() == 1, 20, "the filter")

    with page.expect_download(timeout=60_000) as download:
        page.click("#run-report")
    report = Path(download.value.path()).read_text(encoding="utf-8")
    assert len(report) > 4_000_000 and "/*plotly*/" not in report

    page.click("#run-delete")
    visitor.until(lambda: "it is gone" in page.inner_text("#run-card"), 20, "the sizes")
    page.click("#do-delete")
    visitor.until(lambda: "run-2" not in [run.id for run in store.list()], 20, "the run is deleted")
    page.locator("#runs-filter input").fill("")
    page.locator("#runs-filter input").press("Enter")
    visitor.until(lambda: page.locator("#runs-table tbody tr").count() == 3, 20, "the others stay")


def test_a_report_draws_itself_without_a_server(history: Path, tmp_path: Path) -> None:
    from app.live_plot import PLOTLY_DIR
    from app.report import report
    from app.state import read_view

    file = tmp_path / "report.html"
    plotly = (PLOTLY_DIR / "plotly.min.js").read_text(encoding="utf-8")
    file.write_text(report(read_view(Store(history).get("run-1")), None, plotly=plotly), encoding="utf-8")
    problems: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("#mu_h .plot .scatterlayer", timeout=30_000)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        browser.close()
    assert problems == []
