"""The curve of what to expect marks the chosen size and shows what came; the map shows who gets the bits."""

from app.figures import allocation, expectation
from app.figures.expectation import Came
from app.live_plot import dumps
from quip_engine.expectation import Point, between

POINTS = [
    Point(bits, 10**6 * bits, kl, error, 1 + kl, error, 1)
    for bits, kl, error in ((2, 0.1, 0.02), (3, 0.02, 0.004), (4, 0.005, 0.006))
]


def test_curve_band_chosen_and_runs():
    runs = [Came(2, 0.12, "quip# · run 3", True), Came(3, 0.01, "<b> · run 4", False)]
    figure = expectation(POINTS, between(POINTS, 2.5), runs)
    low, high, curve, other, came, chosen = figure["data"]
    assert curve["y"] == [0.1, 0.02, 0.005]
    assert all(a < b < c for a, b, c in zip(low["y"], curve["y"], high["y"], strict=True))
    assert min(low["y"]) > 0  # the axis is logarithmic
    assert curve["customdata"] == ["2", "3", "4"]  # what a click asks for
    assert (came["x"], came["y"], other["x"]) == ([2], [0.12], [3])
    assert chosen["x"] == [2.5] and 0.02 < chosen["y"][0] < 0.1
    assert "<b>" not in "".join(other["text"])
    assert "2 measured runs" in figure["summary"]
    assert '"#' not in dumps(figure)


def test_without_runs_there_is_only_the_curve():
    assert len(expectation(POINTS, None, [])["data"]) == 3


def test_the_map_frames_what_was_given_by_hand():
    figure = allocation(["q", "down"], [[2.0, 2.5], [1.5, None]], {(0, 1)})
    (tiles,) = figure["data"]
    assert (tiles["zmin"], tiles["zmax"]) == (1.5, 2.5)
    assert tiles["z"][1] == [1.5, None]
    (frame,) = figure["layout"]["shapes"]
    assert (round((frame["x0"] + frame["x1"]) / 2), round((frame["y0"] + frame["y1"]) / 2)) == (1, 0)
    assert "3 layers, 1.50 to 2.50" in figure["summary"]
    assert allocation(["q"], [[2.0]])["data"][0]["zmin"] < 2 < allocation(["q"], [[2.0]])["data"][0]["zmax"]
