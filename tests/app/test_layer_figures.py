"""Figures of one layer and of a race: what the numbers say, as small JSON that names tokens and no colours."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from helpers import random_layer

from app import figures, layer_views
from app.figures.layer import PANELS
from app.figures.versus import Racer
from app.layer_views import Least
from app.live_plot import dumps
from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.inspection import Inspection, inspection
from quip_engine.layer import quantize_weight
from quip_engine.methods.registry import alone, resolve
from quip_engine.race import Finish


def seen(method: str, bits: float = 2, m: int = 64, n: int = 48) -> Inspection:
    W, H = random_layer(m, n)
    W[3, 5] = 1.0
    recipe = resolve(alone(RecipeConfig(method, bits)))
    result = quantize_weight(W, H, recipe)
    return inspection(W, H, result.format, result.tensors, getattr(recipe.rounding, "damping", None))


@pytest.fixture(scope="module")
def sharp() -> Inspection:
    return seen("quip#")


def test_maps_are_bytes_on_one_scale(sharp: Inspection) -> None:
    figure = figures.weight_maps(sharp.maps, "layer", "a foot")
    assert [trace["hovertemplate"].split("<br>")[0] for trace in figure["data"]] == list(PANELS)
    for trace, matrix in zip(figure["data"], (sharp.maps.before, sharp.maps.after, sharp.maps.error), strict=True):
        z = trace["z"]
        values = np.frombuffer(base64.b64decode(z["bytes"]), np.uint8).reshape(-1, z["columns"])
        assert np.array_equal(values, matrix)
        assert (trace["zmin"], trace["zmax"]) == (0, sharp.maps.top)
        assert z["step"] * 255 == pytest.approx(sharp.maps.top, rel=1e-4)
    assert figure["data"][0]["z"]["columns"] == 48
    assert figure["layout"]["xaxis2"]["matches"] == "x"
    assert figure["layout"]["yaxis3"]["matches"] == "y"
    assert len(figure["narrow"]["annotations"]) == 3
    assert figure["data"][2]["colorbar"]["ticktext"][-1] == "≥ 8"


def test_figures_of_every_kind_of_codebook_are_small_and_name_tokens() -> None:
    for method, kind in (("quip#", "points"), ("optq", "levels"), ("icquant", "levels"), ("qtip", "limit")):
        found = seen(method)
        values = layer_views.plots(found, "layer")
        assert set(values) == {"maps", "histogram", "spectrum", "outliers", "codebook"}
        text = "".join(values.values())
        assert len(text) < 60_000
        assert set(re.findall(r"#[0-9A-Fa-f]{6}\b", text)) == set(
            re.findall(r"#[0-9A-Fa-f]{6}\b", dumps(figures.weight_maps(found.maps, "")))
        ), method
        assert all(json.loads(value)["summary"] and json.loads(value)["foot"] for value in values.values())
        summary = json.loads(values["codebook"])["summary"]
        assert kind in summary, (method, summary)


def test_the_spectrum_says_where_nine_tenths_are(sharp: Inspection) -> None:
    assert sharp.spectrum is not None
    figure = figures.spectrum(sharp.spectrum, "layer")
    assert figure["layout"]["shapes"][0]["x0"] == sharp.spectrum.holding
    assert figure["data"][1]["name"] == "damping"
    assert figure["data"][1]["y"] == [0.01, 0.01]


def test_a_race_joins_its_front_and_dots_the_limit() -> None:
    racers = [Racer("a", 2.0, 0.03, 1.0), Racer("b", 2.1, 0.05, 0.1), Racer("c", 3.0, 0.01, 2.0)]
    figure = figures.race(racers, [racers[0], racers[2]], [(1.0, 0.2), (2.0, 0.02), (3.0, 0.002), (9.0, 1e-9)], "layer")
    limit, front, rest, best = figure["data"]
    assert limit["x"] == [2.0, 3.0]
    assert (front["x"], front["y"]) == ([2.0, 3.0], [0.03, 0.01])
    assert rest["customdata"] == ["b, 0.10 s"]
    assert best["x"] == [2.0, 3.0]
    assert [label["text"] for label in figure["layout"]["annotations"]] == ["b", "a", "c"]
    assert figures.race([], [], [], "layer")["data"][0]["x"] == []


def test_labels_that_are_near_are_pushed_apart() -> None:
    racers = [Racer("a", 2.0, 0.0213, 1.0), Racer("b", 2.0, 0.0217, 1.0), Racer("c", 2.1, 0.15, 1.0)]
    c, b, a = figures.race(racers, racers[:1], [], "layer")["layout"]["annotations"]
    assert (c["text"], c["ay"], b["text"], b["ay"]) == ("c", 0, "b", 0)
    assert a["ay"] > 10
    assert (a["font"]["color"], b["font"]["color"]) == ("--ink", "--ink-2")


def test_the_table_of_a_race_has_a_button_for_each_that_finished() -> None:
    asked = [RecipeConfig("quip#", 2), RecipeConfig("waterfill", 1), RecipeConfig("best", 2), RecipeConfig("optq", 3)]
    done = [Finish(asked[0], 2.01, 0.0262, 0.12), Finish(asked[1], None, None, None, reason="Too <small>.")]
    least = Least(((1.0, 0.1), (2.0, 0.02), (3.0, 0.004)))
    table = layer_views.race_table(asked, done, True, {"best@2": 20.0}, least)
    assert table.count("data-action") == 1
    assert 'data-action="quip#@2"' in table
    assert "2.62e-2" in table
    assert "1.33" in table  # 0.0262 over 0.02 * 0.2^0.01
    assert "Too &lt;small&gt;." in table
    assert table.index("running") < table.index("waiting")
    assert "about 20 s" in table


def test_words_of_recipes_are_checked() -> None:
    assert layer_views.recipe_of("quip#@2") == RecipeConfig("quip#", 2)
    assert all(layer_views.word_of(layer_views.recipe_of(word)) == word for _, word in layer_views.recipe_choices())
    for word in ("quip#@7", "nothing@2", "", "quip#", None):
        with pytest.raises(QuipError):
            layer_views.recipe_of(word)


def test_words_say_what_took_part() -> None:
    finish = Finish(RecipeConfig("quip#", 2), 2.01, 0.0262, 0.12)
    text = layer_views.race_words([finish], Least(), 512, 4096)
    assert "quip#, 2 bits, 2.62e-2 in 0.12 s" in text
    assert "512 of 4,096 rows" in text
    assert layer_views.race_words([], Least(), 1, 1) == ""


def test_zero_weights_can_be_looked_at() -> None:
    W, H = torch.zeros(16, 24), torch.eye(24)
    result = quantize_weight(W, H, resolve(RecipeConfig("quip#", 2)))
    found = inspection(W, H, result.format, result.tensors, 0.01)
    assert layer_views.plots(found, "layer")["maps"]
