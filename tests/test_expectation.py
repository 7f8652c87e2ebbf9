"""Rounding that is only simulated errs as the real one does, and so does a model of it."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import decaying, made_up_text, random_layer, tiny_model

from quip_engine.calibration import evaluation_text
from quip_engine.cli import main
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.evaluate import BUNDLED, windows
from quip_engine.expectation import WRONG_BY, Expectation, Point, _ends_first, between, compare, expect, possible_sizes
from quip_engine.layer import quantize_weight
from quip_engine.loading import load_tokenizer
from quip_engine.methods import resolve
from quip_engine.methods.registry import alone
from quip_engine.rehearsal import LEAST_WINDOWS, Cost, Rehearsal
from quip_engine.simulation import simulated
from quip_engine.transforms.importance import Importance


def parts(method, bits, **options):
    return resolve(alone(RecipeConfig(method, bits, options=options)))


def loss(recipe, layer):
    return quantize_weight(*layer, recipe, eigenvectors=None).report.rel_proxy


@pytest.mark.parametrize(
    ("method", "bits", "options"),
    [
        ("quip#", 2, {}),
        ("quip#", 3, {}),
        ("qtip", 2, {"L": 10}),
        ("waterfill", 2, {"L": 10}),
        ("waterfill", 4, {"L": 8}),
    ],
)
def test_noise_loses_as_much_as_the_search(method, bits, options):
    layer, recipe = random_layer(256, 192), parts(method, bits, **options)
    assert loss(simulated(recipe), layer) / loss(recipe, layer) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("bits", [2, 4])
def test_noise_loses_as_much_where_outputs_get_feedback(bits):
    """In the mean over layers: .95 and .99 of it; single ones are off by 20 %."""
    layer, known = random_layer(256, 256), Importance(decaying(256))

    def cost(recipe):
        return known.loss(quantize_weight(*layer, recipe, importance=known).dequantize() - layer[0], layer[1])

    recipes = [parts("waterfill", bits, sides=sides) for sides in ("both", "input", "output", "none")]
    shares = [cost(simulated(recipe)) / cost(recipe) for recipe in recipes]
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.15)


def test_what_is_searched_in_no_time_is_not_simulated():
    recipe = parts("optq", 4)
    assert simulated(recipe) is recipe


def test_noise_is_that_of_the_seed():
    layer, recipe = random_layer(64, 64), simulated(parts("quip#", 2))
    first, again, other = (quantize_weight(*layer, recipe, seed=seed).dequantize() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def job(model, **recipe):
    return JobConfig(str(model), "", RecipeConfig(**recipe), CalibrationConfig(samples=16, seqlen=32), device="cpu")


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path, num_hidden_layers=3, initializer_range=0.2)


def text(windows=4):
    return torch.randint(256, (windows, 32), generator=torch.Generator().manual_seed(1))


def test_more_bits_cost_less(model, monkeypatch):
    monkeypatch.setattr("quip_engine.expectation.MOST_SEEDS", 2)
    found = expect(job(model), text(), (2, 4), minutes=5)
    assert found.blocks == [0, 1, 2]
    assert [point.seeds for point in found.points] == [2, 2]
    assert all(a.kl > b.kl > 0 and a.bytes < b.bytes for a, b in pairwise(found.points))
    assert all(0 < point.kl_error < point.kl for point in found.points)


def test_bits_between_two_that_a_method_has_go_where_errors_cost(model, monkeypatch):
    monkeypatch.setattr("quip_engine.expectation.MOST_SEEDS", 1)
    found = expect(job(model), text(), (2, 2.5, 4), minutes=5)
    assert found.points[0].kl > found.points[1].kl > found.points[2].kl
    assert len(found.values) == 21
    assert Expectation.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert expect(job(model), text(), (2,), minutes=5).values == {}  # nothing is shared out


def test_the_same_again(model, monkeypatch):
    monkeypatch.setattr("quip_engine.expectation.MOST_SEEDS", 1)
    first, again = (expect(job(model), text(2), (2,), minutes=5).points for _ in range(2))
    assert first == again


def test_without_time_the_ends_and_what_is_asked_are_simulated(model):
    found = expect(job(model, bits=2.5), text(), (2, 2.5, 3, 4), minutes=0)
    assert [bool(point.seeds) for point in found.points] == [True, True, False, True]
    assert found.blocks == [0, 2]
    assert found.points[0].kl > found.points[1].kl > found.points[2].kl > found.points[3].kl > 0


def test_parts_of_a_model_tell_of_the_whole(model, monkeypatch):
    monkeypatch.setattr("quip_engine.expectation.MOST_SEEDS", 1)
    whole = expect(job(model), text(), (4,), minutes=5).points[0]
    monkeypatch.setattr(Rehearsal, "choose_blocks", lambda self, seconds: self.take_parts(2))
    found = expect(job(model), text(), (4,), minutes=5)
    assert found.blocks == [0, 2]
    assert found.points[0].kl == pytest.approx(whole.kl, rel=0.5)
    assert found.points[0].kl_error > whole.kl_error


def test_few_windows_of_calibration_tell_of_many(model, monkeypatch):
    def cost(self, _bits, _seed):
        kl = 0.1 + 0.8 / len(self.plan.tokens)
        return Cost(torch.full((4,), kl).double(), torch.full((4,), kl / 2).double())

    usual = Rehearsal.__init__
    monkeypatch.setattr(Rehearsal, "cost", cost)
    monkeypatch.setattr(Rehearsal, "__init__", lambda self, *given: usual(self, *given[:3], 0.0))  # no time
    asked = replace(job(model), calibration=CalibrationConfig(str(made_up(model)), samples=64, seqlen=32))
    found = expect(asked, text(), (2, 4), minutes=5)
    assert found.calibration == LEAST_WINDOWS
    assert found.points[0].kl == pytest.approx(0.1 + 0.8 / 64)
    assert math.log(found.points[0].ratio) == pytest.approx(found.points[0].kl / 2)
    assert found.points[0].kl_error > WRONG_BY[False] * found.points[0].kl


def made_up(model):
    file = model.parent / "calibration.txt"
    file.write_text(made_up_text(20000))
    return file


def test_sizes_that_a_method_does_not_have_are_left_out(model):
    assert possible_sizes(job(model), (1.5, 2, 3, 5)) == [2, 3]
    with pytest.raises(QuipError, match="is not possible"):
        possible_sizes(job(model), (1.5,))
    with pytest.raises(QuipError, match="fewer than one window"):
        expect(job(model), text(1), (2,))


def test_ends_come_first():
    assert list(_ends_first([1, 2, 3, 4, 5], 5)) == [1, 5, 3, 2, 4]
    assert list(_ends_first([1, 2, 3, 4, 5], 2)) == [1, 5, 2, 3, 4]
    assert list(_ends_first([2], 2)) == [2]


def test_between_two_sizes_logarithms_are_lines():
    points = [Point(2, 100, 0.4, 0.04, 1.2, 0.01, 1), Point(4, 200, 0.1, 0.01, 1.1, 0.01, 1)]
    middle = between(points, 3)
    assert middle.kl == pytest.approx(0.2)
    assert middle.ratio == pytest.approx(1 + math.sqrt(0.2 * 0.1))
    assert (middle.bytes, middle.seeds) == (150, 0)
    assert between(points, 4) is points[1]
    assert between(points, 9) is points[1]
    came = compare(points, 3, 0.25, 0.015)
    assert came["off"] == pytest.approx(-0.2)
    assert came["errors"] == pytest.approx(-0.05 / math.hypot(0.02, 0.015))


def test_command(model, tmp_path, capsys):
    source = tmp_path / "text.txt"
    source.write_text(made_up_text(2000))
    options = ["--bits", "2,4", "--seqlen", "32", "--windows", "4", "--calibration", str(source), "--text", str(source)]
    assert main(["expect", str(model), *options, "--minutes", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [point["bits"] for point in found["points"]] == [2, 4]
    assert main(["expect", str(model), "--bits", "two", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "BAD_SETTING"


# Of real runs with 32 calibration windows, on 48 windows of the bundled text, seed 0.
MEASURED = {("babyllama-105", "quip#", 2): 0.740, ("stories260K", "qtip", 3): 0.270}


@pytest.mark.parametrize(("name", "method", "bits"), MEASURED)
def test_expected_is_what_came(name, method, bits, reference, monkeypatch):
    monkeypatch.setattr(Rehearsal, "choose_blocks", lambda self, seconds: None)  # all, however busy the machine is
    monkeypatch.setattr("quip_engine.expectation.MOST_SEEDS", 1)
    folder = Path(reference) / "models" / name
    recipe = RecipeConfig(method, bits, options={"L": 10} if method == "qtip" else {})
    asked = JobConfig(str(folder), "", recipe, CalibrationConfig(samples=32), device="cpu")
    judged = windows(load_tokenizer(folder), evaluation_text(BUNDLED), 256)[:16]
    found = expect(asked, judged, (bits,), minutes=10).points[0]
    assert found.kl == pytest.approx(MEASURED[name, method, bits], rel=0.2)
