"""A race on one layer: every method gets its turn, the front is what nothing beats, a stop is heard."""

from __future__ import annotations

import time

import pytest
import torch
from helpers import random_layer

from quip_engine import race as racing
from quip_engine.config import RecipeConfig
from quip_engine.linalg.bound import eigenvalues, relative_proxy_bound
from quip_engine.race import Finish, all_presets, expected_seconds, limit, pareto_front, race, some_rows, usual_presets


def test_every_preset_of_two_bits_runs_and_repeats_itself() -> None:
    W, H = random_layer(64, 48)
    recipes = all_presets(2)
    first, again = (list(race(W, H, recipes)) for _ in range(2))
    assert [finish.recipe for finish in first] == recipes
    assert [f.rel_proxy for f in first] == [f.rel_proxy for f in again]
    assert all(f.rel_proxy is not None and 0 < f.rel_proxy < 1 and not f.reason for f in first)


def test_a_recipe_that_cannot_run_says_why_and_the_rest_goes_on() -> None:
    W, H = random_layer(4, 6)
    cannot, runs = race(W, H, [RecipeConfig("waterfill", 1), RecipeConfig("quip#", 2)])
    assert cannot.rel_proxy is None
    assert "bits" in cannot.reason
    assert runs.rel_proxy is not None


def test_it_stops_between_methods() -> None:
    W, H = random_layer()
    seen: list[Finish] = []
    for finish in race(W, H, all_presets(2), stop=lambda: len(seen) >= 2):
        seen.append(finish)
    assert len(seen) == 2


def test_options_that_need_a_whole_model_are_left_out() -> None:
    W, H = random_layer(64, 48)
    config = RecipeConfig("qtip", 2, options={"hessian": "weighted", "spread": 0.5})
    (finish,) = race(W, H, [config])
    assert finish.recipe is config
    assert finish.rel_proxy is not None


def test_the_front_is_what_nothing_beats() -> None:
    def at(bits: float, loss: float | None) -> Finish:
        return Finish(RecipeConfig(), bits if loss is not None else None, loss, 0.1)

    finishes = [at(2.0, 0.05), at(2.0, 0.04), at(2.5, 0.04), at(3.0, 0.01), at(2.2, None), at(3.5, 0.02)]
    assert pareto_front(finishes) == [finishes[1], finishes[3]]
    assert pareto_front([]) == []


def test_the_limit_is_that_of_the_layer() -> None:
    W, H = random_layer(64, 48)
    values = eigenvalues(H)
    assert values is not None
    found = limit(W, H, [1, 2, 3.5])
    assert found == pytest.approx([relative_proxy_bound(W, H, values, b) for b in (1, 2, 3.5)], rel=1e-6)


def test_large_layers_run_with_some_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    W = torch.arange(1000.0)[:, None] * torch.ones(8)
    assert some_rows(W) is W
    monkeypatch.setattr(racing, "MOST_WEIGHTS", 800)
    assert some_rows(W)[:, 0].tolist() == list(range(0, 1000, 10))
    monkeypatch.setattr(racing, "MOST_WEIGHTS", 8)
    assert len(some_rows(W)) == racing.LEAST_ROWS


def test_slow_methods_are_offered_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_presets(256, 256) == all_presets(2)
    monkeypatch.setattr(racing, "expected_seconds", lambda config, m, n: 20.0 if config.method == "best" else 1.0)
    assert [c.method for c in all_presets(2) if c not in usual_presets(4096, 4096)] == ["best"]


def test_expected_seconds_grow_with_the_layer() -> None:
    config = RecipeConfig("quip", 2)
    assert 0 < expected_seconds(config, 256, 256) < expected_seconds(config, 4096, 4096)


def test_five_methods_on_a_256_layer_are_quick() -> None:
    W, H = random_layer(256, 256)
    started = time.process_time()
    assert len(list(race(W, H, all_presets(2)[:5]))) == 5
    assert time.process_time() - started < 10  # measured 0.6 s with kernels
