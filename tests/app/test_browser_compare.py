"""Compare in a real Chromium: two models answer, part, go back, are voted on blindly, and the talk is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import edit_json, tiny_model
from story import tell_finished
from test_browser import Visitor, serve, sync_api, visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CONTEXT = 100_000  # tokens: a model that never ends by itself writes for minutes
DRAWN = "() => Boolean(document.querySelector('#plot-second .plot')?.data?.length)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Over one finished run: what it has made differs from its original in every layer."""
    home, folders = tmp_path_factory.mktemp("home"), []
    for k, name in enumerate(("big", "small")):
        folders.append(tiny_model(tmp_path_factory.mktemp(name), seed=k, max_position_embeddings=CONTEXT))
    for folder in folders:
        edit_json(folder / "generation_config.json", eos_token_id=None)
        edit_json(folder / "tokenizer_config.json", eos_token=None)
    tell_finished(home, *folders)
    with serve(home) as url:
        yield url


@pytest.fixture
def visitor(server: str) -> Iterator[Visitor]:
    with visiting(server) as visitor:
        yield visitor


def says(visitor: Visitor, where: str, words: str) -> None:
    part = visitor.page.locator(where)
    visitor.until(lambda: words in (part.inner_text() if part.count() else ""), 60, words)


def choose(visitor: Visitor) -> None:
    """Open the tab and wait until both models are chosen."""
    visitor.tab("Compare")
    says(visitor, "#talk-fits", "they answer at once")


def test_two_models_are_asked_and_judged(visitor: Visitor) -> None:
    page = visitor.page
    choose(visitor)
    prompt = page.locator("#prompt textarea")
    prompt.press("Enter")  # nothing is asked, and nothing goes
    page.wait_for_timeout(500)
    says(visitor, "#talk-fits", "they answer at once")
    assert page.locator("#send").inner_text() == "Send"
    prompt.fill("Once")
    prompt.press("Shift+Enter")
    prompt.type("more")
    assert prompt.input_value() == "Once\nmore"
    prompt.press("Enter")
    for side in ("left", "right"):
        says(visitor, f"#answer-{side}", "tok/s")
    says(visitor, "#agreement-second", "mean KL")
    page.locator("#plot-second").scroll_into_view_if_needed()  # far below the window it would wait
    visitor.until(lambda: bool(page.evaluate(DRAWN)), 60, "the figure")
    assert "KL divergence" in str(page.locator("#plot-second .plot").get_attribute("aria-label"))
    assert prompt.input_value() == ""
    page.get_by_text("What the models really read").click()
    says(visitor, "#reads", "Once\nmore")

    with page.expect_download() as download:
        page.click("#talk-json")
    kept = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [len(kept["models"]), len(kept["turns"])] == [2, 1]
    page.click("#talk-edit")
    visitor.until(lambda: prompt.input_value() == "Once\nmore", 60, "the prompt is back")
    says(visitor, "#answer-left", "The answer appears here.")

    page.locator("#blind input").check()
    says(visitor, "#ballot", "No votes on these models yet.")
    prompt.press("Enter")
    visitor.until(lambda: page.locator("#vote-equal").is_enabled(), 60, "the ballot opens")
    assert not page.locator("#model-left").is_visible()
    assert "tok/s" not in page.inner_text("#answer-left")
    page.click("#vote-equal")
    says(visitor, "#ballot", "1 vote on these models")
    says(visitor, "#answer-left", "tok/s")

    page.locator("#blind input").uncheck()
    visitor.until(lambda: page.locator("#add-third").is_enabled(), 60, "names again")
    page.click("#add-third")
    visitor.until(lambda: page.locator("#model-third").is_visible(), 60, "a third side")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    model = page.locator("#model-third input")
    model.fill("/nowhere")
    model.press("Enter")
    says(visitor, "#talk-fits", "No file or folder at /nowhere.")
    prompt.fill("Once")
    prompt.press("Enter")
    visitor.until(lambda: page.locator(".banner-error", has_text="NOT_FOUND").is_visible(), 60, "what is wrong")


def test_models_that_are_chosen_together_are_seen_together(visitor: Visitor) -> None:
    """However long the first question about them takes: no answer for one without the other comes late."""
    held: list[sync_api.Route] = []

    def hold(route: sync_api.Route) -> None:
        if "When they fit" in str(route.request.post_data) and not held:
            held.append(route)
        else:
            route.continue_()

    visitor.page.route("**/queue/join*", hold)
    visitor.reload()
    visitor.tab("Compare")
    visitor.until(lambda: bool(held), 60, "a question about the models")
    visitor.page.wait_for_timeout(1000)  # for the second one, if there is one
    held[0].continue_()
    visitor.page.wait_for_timeout(1000)
    says(visitor, "#talk-fits", "they answer at once")


def test_escape_ends_both_answers(visitor: Visitor) -> None:
    page = visitor.page
    choose(visitor)
    page.get_by_text("Sampling and memory: the same for all").click()
    page.locator("#talk-max_tokens input").fill(str(CONTEXT // 2))
    page.locator("#prompt textarea").fill("Once")
    page.locator("#prompt textarea").press("Enter")
    sides = ("#answer-left", "#answer-right")
    visitor.until(lambda: all("Writing…" in page.inner_text(side) for side in sides), 60, "both write")
    visitor.until(lambda: page.locator("#stop-answers").is_enabled(), 30, "they can be stopped")
    page.keyboard.press("Escape")
    visitor.until(lambda: all("Stopped" in page.inner_text(side) for side in sides), 30, "both have stopped")
    visitor.until(lambda: page.locator("#send").is_enabled(), 30, "the next prompt may come")
    assert page.locator("#stop-answers").is_disabled()
