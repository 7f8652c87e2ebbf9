"""Inspect in a real Chromium: a layer of the demo model, a race on it, a recipe taken over, a layer that has gone."""

# ruff: noqa: F811 - fixtures come by import

from __future__ import annotations

import pytest
from test_browser import Visitor, server, visitor  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = "id => Boolean(document.querySelector(`#${id} .plot`)?.data?.length)"
PLOTS = ("plot-maps", "plot-histogram", "plot-spectrum", "plot-outliers", "plot-codebook")
FINISHED = "() => (document.querySelector('#race-table')?.innerText.match(/Use this recipe/g) || []).length"


def choose(visitor: Visitor, label: str, option: str) -> None:
    visitor.page.locator("#inspect-picker").get_by_label(label).click()
    visitor.page.get_by_role("option", name=option, exact=True).click()


def test_a_layer_is_looked_at_raced_and_its_recipe_taken_over(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Inspect")
    visitor.until(lambda: page.locator("#look").is_visible(), 60, "the picker")
    visitor.until(lambda: page.get_by_label("Projection").input_value() != "", 60, "a layer to begin with")
    assert page.get_by_text("A layer under the microscope").is_visible()
    choose(visitor, "Block", "2")
    choose(visitor, "Projection", "q")
    visitor.until(lambda: page.get_by_label("Projection").input_value() == "q", 60, "the choice")
    page.click("#look")
    visitor.until(lambda: "Block 2 · q" in page.inner_text("body"), 120, "the layer is shown")
    for plot in PLOTS:
        page.locator(f"#{plot}").scroll_into_view_if_needed()  # far below the window they wait
        visitor.until(lambda plot=plot: page.evaluate(DRAWN, plot), 90, f"{plot} is drawn")
        assert page.locator(f"#{plot} .plot").get_attribute("aria-label")
    assert "directions hold 90 %" in page.inner_text("#plot-spectrum")
    assert page.evaluate("() => document.querySelector('#plot-maps .plot').data.map(t => t.z.length)") == [96] * 3

    page.click("#run-race")
    took = visitor.until(lambda: page.evaluate(FINISHED) >= 5, 120, "five methods are through")
    print(f"five methods on 256 x 256 took {took:.1f} s with their drawing")
    visitor.until(lambda: page.locator("#run-race").is_enabled(), 120, "the race ends")
    page.locator("#plot-race").scroll_into_view_if_needed()
    visitor.until(lambda: page.evaluate(DRAWN, "plot-race"), 60, "the race is drawn")
    page.locator("#race-table tr", has_text="qtip").get_by_role("button").click()
    visitor.until(lambda: page.locator("#start").is_visible(), 60, "Quantize opens")
    visitor.until(lambda: "--method qtip" in page.inner_text("#command"), 60, "with the recipe")


def test_no_width_or_scheme_breaks_it_and_errors_stay(visitor: Visitor) -> None:
    page = visitor.page
    visitor.tab("Inspect")
    visitor.until(lambda: page.locator("#look").is_visible(), 60, "the picker")
    visitor.until(lambda: page.get_by_label("Projection").input_value() != "", 60, "a layer to begin with")
    page.click("#look")
    visitor.until(lambda: page.evaluate(DRAWN, "plot-maps"), 120, "the layer is shown")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#plot-maps").scroll_into_view_if_needed()
    stacked = "() => document.querySelector('#plot-maps .plot').layout.yaxis2.domain[1] < .7"
    visitor.until(lambda: page.evaluate(stacked), 60, "the maps stand below each other")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390

    for _ in range(20):  # without methods there is nothing to race
        if not (cross := page.locator("#racers .token-remove:not(.remove-all)")).count():
            break
        cross.first.click()
    page.click("#run-race")
    visitor.until(lambda: page.locator(".banner", has_text="BAD_SETTING").is_visible(), 60, "the banner")
