"""The curve of what to expect marks the chosen size and shows what came."""

from app.figures.expectation import expectation
from app.live_plot import dumps

POINTS = [
    {"bits": bits, "bytes": 10**6 * bits, "kl": kl, "kl_error": error, "ratio": 1 + kl}
    for bits, kl, error in ((2, 0.1, 0.02), (3, 0.02, 0.004), (4, 0.005, 0.006))
]


def test_curve_band_and_runs():
    figure = expectation(POINTS, 3, [(2, 0.12)])
    low, high, curve, came = figure["data"]
    assert curve["y"] == [0.1, 0.02, 0.005]
    assert all(a < b < c for a, b, c in zip(low["y"], curve["y"], high["y"], strict=True))
    assert min(low["y"]) > 0  # the axis is logarithmic
    assert curve["marker"]["size"] == [6, 9, 6]
    assert (came["x"], came["y"]) == ([2], [0.12])
    assert "#" not in dumps(figure)


def test_without_runs_there_is_only_the_curve():
    assert len(expectation(POINTS, None, [])["data"]) == 3
