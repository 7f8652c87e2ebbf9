"""Where the damage arises: pooled positions, worst tokens, states after blocks, each layer alone."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import damage
from quip_engine.damage import BlockErrors, Positions, WorstTokens, comparable_layers, layers_alone
from quip_engine.evaluate import Scores, predict, score, windows
from quip_engine.loading import load_model

CPU = torch.device("cpu")


def scores(kl: list[float], model: list[int] | None = None, original: list[int] | None = None) -> Scores:
    count = len(kl)
    zeros = torch.zeros(count)
    choice = torch.tensor(model or [0] * count)
    return Scores(
        zeros, choice, zeros + 0.25, zeros, torch.tensor(original or [0] * count), zeros + 0.5, torch.tensor(kl)
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    """A model and a copy of it with another down projection in block 1; tokens of 4 windows."""
    folder = tiny_model(tmp_path_factory.mktemp("models"))
    original, tokenizer = load_model(folder, CPU)
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.down_proj").weight *= 3.0
    return model, original, tokenizer, windows(tokenizer, made_up_text(100), 32)[:4]


def test_positions_are_pooled_with_their_errors():
    positions = Positions(4)
    positions.add(scores([1.0, 2.0, 3.0, 4.0], [1, 0, 0, 0]))
    positions.add(scores([3.0, 2.0, 5.0, 4.0]))
    first, second, *_ = positions.result()
    assert first == {"first": 1, "last": 1, "kl": 2.0, "kl_error": 1.0, "agreement": 0.5}
    assert (second["kl"], second["kl_error"]) == (2.0, 0.0)
    long = Positions(1000)
    long.add(scores(list(map(float, range(1000)))))
    bins = long.result()
    assert len(bins) == damage.BINS
    assert [b["first"] for b in bins[1:]] == [b["last"] + 1 for b in bins[:-1]]
    assert (bins[0]["first"], bins[-1]["last"], bins[0]["kl"], bins[0]["kl_error"]) == (1, 1000, 7.0, None)
    assert Positions(3).result() == []


def test_the_worst_tokens_are_kept_with_what_either_would_say(pair, monkeypatch):
    _, _, tokenizer, _ = pair
    monkeypatch.setattr(damage, "WORST", 2)
    ids = torch.tensor([tokenizer("abcde")["input_ids"], tokenizer("vwxyz")["input_ids"]])
    x, y = tokenizer("XY")["input_ids"]
    worst = WorstTokens()
    worst.add(0, scores([0.1, 0.9, 0.2, 0.3], [y] * 4, [x] * 4))
    worst.add(1, scores([0.5, 0.0, 0.0, 0.0], [y] * 4, [x] * 4))
    first, second = worst.result(tokenizer, ids)
    assert (first["window"], first["position"], first["context"], first["text"]) == (0, 2, "ab", "c")
    assert (first["original"], first["model"], first["kl"]) == ("X", "Y", pytest.approx(0.9))
    assert (first["original_probability"], first["model_probability"]) == (0.5, 0.25)
    assert (second["window"], second["context"], second["text"]) == (1, "v", "w")


def test_states_are_compared_after_each_block(pair):
    model, original, _, tokens = pair
    with BlockErrors(model, original) as errors:
        list(score(model, tokens, original))
    first, second = errors.result()
    assert (first["block"], first["error"], first["error_error"]) == (0, 0.0, 0.0)
    assert first["cosine"] == pytest.approx(1, abs=1e-6)
    assert not any(m.model.layers[0]._forward_hooks for m in pair[:2])  # gone with the context
    states: list[torch.Tensor] = []
    for each in (model, original):
        handle = each.model.layers[1].register_forward_hook(lambda _m, _args, out: states.append(out))
        for window in tokens:
            predict(each, window)
        handle.remove()
    changed, h = (torch.cat([t.flatten(0, -2) for t in part]) for part in (states[:4], states[4:]))
    relative = ((changed - h).norm(dim=-1) / h.norm(dim=-1)).mean()
    assert second["error"] == pytest.approx(float(relative), rel=1e-5)
    assert second["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(changed, h).mean()), rel=1e-5)


def test_few_states_are_kept_when_they_are_large(pair, monkeypatch):
    model, original, _, tokens = pair
    with BlockErrors(model, original) as whole:
        list(score(model, tokens, original))
    monkeypatch.setattr(damage, "STATES", 4 * 32 * 2 * 5)  # five tokens of two blocks of width 32
    with BlockErrors(model, original) as sampled:
        list(score(model, tokens, original))
        assert [len(states) for states in sampled._states] == [5, 5]
    assert sampled.result()[1]["error"] == pytest.approx(whole.result()[1]["error"], rel=0.3)


def test_other_blocks_give_no_figures(pair, tmp_path: Path):
    model, _, _, tokens = pair
    deeper, _ = load_model(tiny_model(tmp_path, num_hidden_layers=3), CPU)
    with BlockErrors(model, deeper) as errors:
        list(score(model, tokens[:1], deeper))
    assert errors.blocks == 0
    assert errors.result() == []


def test_a_layer_alone_costs_what_the_model_costs_where_it_is_the_only_one(pair):
    model, original, _, tokens = pair
    layers = comparable_layers(model, original)
    assert [layer.name for layer in layers] == ["model.layers.1.mlp.down_proj"]
    before = predict(original, tokens[0])
    alone = {index: kl for index, _, kl in layers_alone(model, original, tokens[:2], layers)}
    whole = [float(s.kl.mean()) for s in score(model, tokens[:2], original)]
    assert [alone[0], alone[1]] == pytest.approx(whole, rel=1e-6)
    assert predict(original, tokens[0]).equal(before)  # put back as it was


def test_the_same_model_has_no_damage(pair):
    _, original, _, tokens = pair
    assert comparable_layers(original, original) == []
    assert comparable_layers(copy.deepcopy(original), original) == []
    with BlockErrors(original, original) as errors:
        list(score(original, tokens[:1], original))
    assert [block["error"] for block in errors.result()] == [0.0, 0.0]
