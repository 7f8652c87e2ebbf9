"""Figures say what the numbers say, name tokens and no colours, and stay small."""

import base64
import json
import re

import numpy as np
import pytest

from app.figures import Lanes, Point, block_map, incoherence, patches, proxy_loss
from app.figures.base import log_range, log_ticks, pack, tick_label
from app.live_plot import dumps

NAMES = ("q", "k", "v", "o", "gate", "up", "down")


def unpack(value):
    """What live_plot.js does with a packed series."""
    codes = np.frombuffer(base64.b64decode(value["packed"]), "<u2")
    numbers = [None if c == 65535 else value["low"] + value["step"] * int(c) for c in codes]
    return [None if v is None else 10**v if value["log"] else v for v in numbers]


def points(blocks, names=NAMES):
    rng = np.random.default_rng(0)
    return [
        Point(name, b, float(10 ** rng.uniform(-3, -1)), (rng.uniform(5, 100), rng.uniform(4, 6)), (20.0, 4.0))
        for b in range(blocks)
        for name in names
    ]


def test_a_series_keeps_four_digits_and_its_gaps():
    values = [1.234e-3, None, 0.5678, 0.1]
    out = unpack(pack(values, log=True))
    assert out[1] is None
    assert out[0] == pytest.approx(1.234e-3, rel=1e-4)  # 16 bits over 2.7 decades: 1e-4 (measured 5e-5)
    assert out[2] == pytest.approx(0.5678, rel=1e-4)
    assert unpack(pack([2.0, 2.0])) == [2.0, 2.0]
    assert unpack(pack([None, None])) == [None, None]


def test_lanes_put_each_layer_in_its_place():
    lanes = Lanes(("a", "b"), blocks=3)
    series = lanes.series({("a", 0): 1.0, ("b", 2): 2.0})
    assert series == [1.0, None, None, None, None, None, None, 2.0, None, None]
    assert series[lanes.start(1) + 2] == 2.0
    assert lanes.layout()["lanes"] == {"lanes": ["a", "b"], "blocks": 3, "gap": 2}


def test_proxy_loss_shows_this_run_the_earlier_one_and_the_latest_layer():
    lanes, done = Lanes(NAMES, 4), points(4)[:10]
    figure = proxy_loss(done, lanes, "run-2", points(4))
    earlier, now = figure["data"]
    assert earlier["line"]["color"] == "--prev"
    assert sum(v is not None for v in unpack(now["y"])) == 10
    assert figure["now"]["ring"] == [lanes.start(NAMES.index(done[-1].lane)) + done[-1].block, done[-1].loss]
    assert figure["run"] == "run-2"
    low, high = figure["layout"]["yaxis"]["range"]
    assert all(low < np.log10(p.loss) < high for p in done)


def test_proxy_loss_of_nothing_and_of_zero():
    assert proxy_loss([], Lanes(NAMES, 2), "run-1")["data"][0]["name"] == "this run"
    zero = Point("q", 0, 0.0, (5.0, 4.0), (None, None))
    assert unpack(proxy_loss([zero], Lanes(NAMES, 2), "run-1")["data"][0]["y"])[0] is None


def test_incoherence_joins_before_and_after():
    figure = incoherence(points(2), Lanes(NAMES, 2), "run-1", "W")
    stems, before, after = figure["data"]
    assert stems["stems"] == [-2, -1]
    assert (before["marker"]["symbol"], before["marker"]["color"]) == ("diamond", "--before")
    assert unpack(after["y"])[0] == pytest.approx(points(1)[0].mu_w[1], rel=1e-3)


def test_what_a_rotation_promises_is_a_line_in_its_lane():
    figure = incoherence(points(2), Lanes(("q", "o"), 2), "run-1", "W", [30.0, 40.0])
    promised = figure["data"][1]
    assert promised["line"]["dash"] == "dash"
    known = [v for v in unpack(promised["y"]) if v is not None]
    assert known == pytest.approx([30, 30, 40, 40], rel=1e-3)


def test_incoherence_that_was_not_measured_is_a_gap():
    blank = Point("q", 0, 0.01, (5.0, 4.0), (None, None))
    figure = incoherence([blank], Lanes(("q",), 1), "run-1", "H")
    assert set(unpack(figure["data"][1]["y"])) == {None}


def test_block_map_marks_the_current_layer_and_failures():
    figure = block_map(points(2)[:3], Lanes(NAMES, 2), "run-1", ("o", 0), failed=True)
    cells = unpack(figure["data"][1]["z"])
    assert cells[3:] == [None] * 11
    assert 10 ** cells[0] == pytest.approx(points(2)[0].loss, rel=1e-3)
    assert figure["now"] == {"tile": [3, 0], "color": "--error"}


@pytest.mark.parametrize("blocks", [1, 2, 80])
def test_figures_name_tokens_never_colours(blocks):
    lanes, all_points = Lanes(NAMES, blocks), points(blocks)
    figures = [proxy_loss(all_points, lanes, "r", all_points), incoherence(all_points, lanes, "r", "W")]
    figures += [block_map(all_points, lanes, "r", ("q", 0))]
    for figure in figures:
        assert figure["summary"]
        for trace in figure["data"]:
            trace.pop("colorscale", None)  # the ramp of the map is data, not decoration
        assert not re.search(r'"#[0-9a-fA-F]{3,8}"', json.dumps(figure))


def test_five_hundred_and_sixty_layers_are_a_few_kilobytes():
    lanes, all_points = Lanes(NAMES, 80), points(80)
    loss = dumps(proxy_loss(all_points, lanes, "r", all_points))
    mu = dumps(incoherence(all_points, lanes, "r", "W"))
    tiles = dumps(block_map(all_points, lanes, "r"))
    assert len(loss) + 2 * len(mu) + len(tiles) < 20_000  # measured 17.6 kB when all of it changes at once


def test_ticks_read_like_the_tables():
    assert [tick_label(t) for t in log_ticks(0.004, 0.06)] == ["5e-3", "1e-2", "2e-2", "5e-2"]
    assert [tick_label(t) for t in log_ticks(3.5, 30)] == ["5", "10", "20"]
    low, high = log_range([0.01])
    assert low < 0.01 < high


def test_patches_draw_every_cell():
    html = patches([(np.array([[0.0, 5.0], [-1.0, 2.0]]), "One", "note")], top=2.0)
    assert html.count("<rect") == 4
    assert re.findall(r'opacity="([\d.]+)"', html) == ["0.07", "1.00", "0.54", "1.00"]
