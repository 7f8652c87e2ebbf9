"""Feedback along the columns: what it gains, what it leaves alone, and that paths remain paths."""

import pytest
import torch
from helpers import decaying, random_layer

from quip_engine.codebooks import shaping
from quip_engine.codebooks.bitstream import path_bits, window_states
from quip_engine.codebooks.column_trellis import Sequences
from quip_engine.codebooks.shaping import Shaping
from quip_engine.codebooks.viterbi import Search
from quip_engine.config import RecipeConfig
from quip_engine.layer import quantize_weight
from quip_engine.methods import resolve
from quip_engine.transforms.importance import Importance


@pytest.mark.parametrize(("m", "S", "T"), [(100, 1, 100), (250, 3, 84), (96, 3, 32), (7, 1, 7)])
def test_only_later_stretches_hear_of_an_error(m, S, T):
    x = torch.randn(S, T, generator=torch.Generator().manual_seed(2))
    shaped, heard = Shaping(Importance(decaying(m)), S, T), torch.zeros(S, T)

    def settle(targets, first, end):
        heard[:, first:end] = targets[:, first:end]
        return targets[:, first:end] + (first == 0)  # the first stretch errs, the others do not

    shaped.run(x, settle)
    first = T - (T - 1) // shaping.SEGMENT * shaping.SEGMENT
    assert torch.equal(heard[:, :first], x[:, :first])
    count = S * (T - first) - (S * T - m)
    assert (heard[:, first:] != x[:, first:]).flatten()[:count].all()
    assert (shaped.weights.flatten()[:m] > 0).all()
    assert (shaped.weights.flatten()[m:] == 0).all()  # padded rows do not count


def test_single_rows_cost_what_the_factor_says(monkeypatch):
    monkeypatch.setattr(shaping, "SEGMENT", 1)
    m, G = 40, decaying(40)
    shaped = Shaping(Importance(G), 1, m)
    x = torch.randn(1, m, generator=torch.Generator().manual_seed(2))
    values, own = [], []

    def settle(targets, first, end):
        values.append(targets[:, first:end].round())
        own.append(values[-1] - targets[:, first:end])
        return values[-1]

    shaped.run(x, settle)
    u = (torch.cat(values, 1) - x)[0].double()
    damped = G.double() + shaping.DAMPING * torch.eye(m)
    by_factor = (torch.cat(own, 1)[0].double().square() * shaped.weights[0]).sum()
    torch.testing.assert_close(by_factor, u @ damped @ u, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("L", "steps"), [(8, [2]), (8, [3, 1]), (8, [0, 1]), (14, [1] + 7 * [0])], ids=str)
@pytest.mark.parametrize(("m", "S"), [(150, 1), (300, 2)])
def test_paths_are_circles_of_windows(L, steps, m, S):
    T = m // S
    generator = torch.Generator().manual_seed(0)
    table, x = torch.randn(2**L, 1, generator=generator), torch.randn(S, T, generator=generator)
    order = torch.tensor((steps * T)[:T], dtype=torch.uint8)
    search = Search(table, order)
    states = Shaping(Importance(decaying(m)), S, T).path(search, x, lambda s, _: table[s.long(), 0], 32)
    assert torch.equal(window_states(path_bits(states, order), order, L), states)


@pytest.mark.parametrize("sides", ["both", "input", "output", "none"])
def test_errors_that_cost_less_together_are_chosen(sides):
    """Measured: .71 to .73 of what it costs without, and where G is diagonal but for a constant, the same."""
    m, n = 256, 64
    W, H = random_layer(m, n, 0)
    known = Importance(decaying(m))
    recipe = resolve(RecipeConfig("waterfill", 2, options={"sides": sides, "L": 8}))

    def cost(importance):
        return known.loss(quantize_weight(W, H, recipe, importance=importance).dequantize() - W, H)

    assert cost(known) < 0.85 * cost(Importance(known.each))
    flat = Importance(torch.eye(m)), Importance(torch.ones(m))
    alike = [quantize_weight(W, H, recipe, importance=each).report.rel_proxy for each in flat]
    assert alike[0] == pytest.approx(alike[1], rel=0.03)  # stretches of a sequence instead of the whole


def test_sequences_of_unequal_length_fit():
    form = Sequences.of(8, 300)
    assert Shaping(Importance(torch.eye(300)), form.S, form.T).weights.shape == (form.S, form.T)
