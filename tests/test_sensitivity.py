"""What errors cost, block by block, is what one backward pass through the whole model says."""

import math

import pytest
import torch
from helpers import EXPERTS, FAMILIES, tiny_model

from quip_engine import sensitivity
from quip_engine.activations import Activations, block_hessians, predictions
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.errors import QuipError
from quip_engine.linalg.hessian import damped
from quip_engine.sensitivity import SMALLEST, drawn_labels, gather, head_gradient, sensitivities
from quip_engine.skeleton import Skeleton

CPU = torch.device("cpu")


def tokens_for(samples=5, length=16):
    return torch.randint(5, 200, (samples, length), generator=torch.Generator().manual_seed(1))


def loaded(folder):
    skeleton = Skeleton(folder, CPU)
    skeleton.load_outside()
    for index in range(len(skeleton.blocks)):
        skeleton.load_block(index)
    return skeleton


def streamed(skeleton, tokens, seed=0, together=False):
    """The sensitivities of all blocks, and the inputs of each."""
    activations = Activations(skeleton, tokens)
    states = []
    for index, block in enumerate(skeleton.blocks):
        states.append(activations.hidden.clone())
        activations.advance(block, index)
    gradient = head_gradient(skeleton, tokens, activations.hidden, seed)
    found = {}
    for index in reversed(range(len(skeleton.blocks))):
        activations.hidden = states[index]
        layers = sensitivities(gather(skeleton.blocks[index], index, activations, gradient, together), tokens.numel())
        found |= {f"{skeleton.prefix}.{index}.{name}": layer for name, layer in layers.items()}
    return found


def backward(skeleton, tokens, seed=0):
    """Gradients by the outputs of all linear layers, with the inputs, in one pass through the whole model."""
    found = {}
    layers = {
        f"{skeleton.prefix}.{i}.{n}": m for i, b in enumerate(skeleton.blocks) for n, m in linear_modules(b).items()
    }

    def hook(name, x, y):
        y.requires_grad_() if y.is_leaf else None
        y.register_hook(lambda g: found.setdefault(name, []).append((x.detach(), g)))

    handles = [m.register_forward_hook(lambda _m, a, y, n=n: hook(n, a[0], y)) for n, m in layers.items()]
    generator = torch.Generator().manual_seed(sensitivity.OF_LABELS + seed)
    skeleton.model.get_input_embeddings().weight.requires_grad_()
    for window in tokens.split(1):
        log_p = skeleton.model(window, use_cache=False).logits[0].log_softmax(-1)
        (-log_p.gather(1, drawn_labels(log_p.detach().exp(), generator)).sum()).backward()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_gradients_equal_those_of_the_whole_model(tmp_path, family):
    tokens = tokens_for()
    skeleton = loaded(tiny_model(tmp_path, family))
    found = streamed(skeleton, tokens)
    expected = backward(skeleton, tokens)
    assert found.keys() == expected.keys()
    for name, gradients in expected.items():
        g = torch.cat([g.flatten(0, -2) for _, g in gradients]).double()
        outputs = g.square().mean(0) / g.square().mean()
        torch.testing.assert_close(
            found[name].outputs.double(), SMALLEST + (1 - SMALLEST) * outputs, rtol=1e-3, atol=1e-5
        )
        if found[name].tokens is None:
            assert family in EXPERTS and ".experts." in name and len(g) < tokens.numel()
            continue
        weights = g.square().sum(1).view(tokens.shape)
        torch.testing.assert_close(found[name].tokens.double(), weights / weights.mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_errors_of_outputs_do_together_in_layers_that_are_not_wide(tmp_path, family):
    tokens = tokens_for()
    skeleton = loaded(tiny_model(tmp_path, family))
    found, alone = (streamed(skeleton, tokens, together=together) for together in (True, False))
    for name, gradients in backward(skeleton, tokens).items():
        g = torch.cat([g.flatten(0, -2) for _, g in gradients]).double()
        m, n = weight_of(skeleton.model.get_submodule(name)).shape
        assert (found[name].value, found[name].trace) == (alone[name].value, alone[name].trace)
        if m > n:
            assert torch.equal(found[name].outputs, alone[name].outputs)
            continue
        G = (1 - SMALLEST) * (g.T @ g) / g.square().sum(0).mean() + SMALLEST * torch.eye(m)
        torch.testing.assert_close(found[name].outputs.double(), G, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_the_value_of_a_layer(tmp_path, family):
    tokens = tokens_for(samples=24)
    skeleton = loaded(tiny_model(tmp_path, family))
    found = streamed(skeleton, tokens)
    for name, gradients in backward(skeleton, tokens).items():
        x, g = (torch.cat([pair[i].flatten(0, -2) for pair in gradients]).double() for i in (0, 1))
        H = (x * g.square().sum(1, keepdim=True)).T @ x / len(x)
        W = weight_of(skeleton.model.get_submodule(name)).double()
        h = SMALLEST + (1 - SMALLEST) * g.square().mean(0) / g.square().mean()
        rows = (h.sqrt() * W.square().mean(1).sqrt()).mean()
        value = float(torch.linalg.slogdet(damped(H, sensitivity.DAMPING))[1]) / len(H) / math.log(2)
        value += float(2 * rows.log2()) - math.log2(len(W)) + math.log2(len(x) / tokens.numel())
        assert found[name].value == pytest.approx(value, abs=0.02)


def test_labels_are_drawn_from_the_model():
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    labels = drawn_labels(p.expand(40_000, 4), torch.Generator().manual_seed(0))
    assert labels.shape == (40_000, 1)
    torch.testing.assert_close(labels[:, 0].bincount(minlength=4) / 40_000, p, rtol=0, atol=0.01)


def test_another_seed_draws_other_labels(tmp_path):
    skeleton, tokens = loaded(tiny_model(tmp_path, "llama")), tokens_for()
    first, again, other = (streamed(skeleton, tokens, seed) for seed in (0, 0, 1))
    assert all(torch.equal(layer.tokens, again[name].tokens) for name, layer in first.items())
    assert not any(torch.equal(layer.tokens, other[name].tokens) for name, layer in first.items())


def test_predictions_are_those_of_the_model(tmp_path):
    for family in ("llama", "gemma2"):  # one with soft-capped logits
        skeleton, tokens = loaded(tiny_model(tmp_path, family)), tokens_for()
        activations = Activations(skeleton, tokens)
        for index, block in enumerate(skeleton.blocks):
            activations.advance(block, index)
        with torch.no_grad():
            expected = skeleton.model(tokens, use_cache=False).logits
            torch.testing.assert_close(predictions(skeleton, tokens, activations.hidden), expected, rtol=0, atol=0)


def test_tokens_count_with_their_weights(tmp_path):
    skeleton = loaded(tiny_model(tmp_path, "llama"))
    activations = Activations(skeleton, tokens_for())
    block = skeleton.blocks[0]
    weights = {"self_attn.q_proj": torch.rand(5, 16), "self_attn.k_proj": torch.rand(5, 16)}
    inputs = []
    handle = block.self_attn.q_proj.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    groups = block_hessians(block, 0, activations, weights=weights)
    handle.remove()
    x = torch.cat(inputs).flatten(0, 1)
    w = (sum(weights.values()) / 2).flatten()
    torch.testing.assert_close(groups[0][1].matrix(), (x * w[:, None]).T @ x / len(x))
    plain = block_hessians(block, 0, activations)
    assert all(torch.equal(a.matrix(), b.matrix()) for (_, a), (_, b) in zip(groups[1:], plain[1:], strict=True))


def test_a_layer_without_gradient_is_worth_nothing(tmp_path):
    skeleton = loaded(tiny_model(tmp_path, "llama"))
    skeleton.blocks[1].mlp.down_proj.weight.data.zero_()
    found = streamed(skeleton, tokens_for())
    assert found["model.layers.1.mlp.up_proj"].value == -math.inf
    assert found["model.layers.1.mlp.down_proj"].value == -math.inf
    assert found["model.layers.0.mlp.up_proj"].value > -math.inf
    assert torch.equal(found["model.layers.1.mlp.up_proj"].outputs, torch.ones(48))


def test_gradients_that_are_not_finite_are_named():
    leaf = torch.zeros(2, requires_grad=True)
    with pytest.raises(QuipError) as caught:
        sensitivity._gradient(leaf.sqrt().sum(), leaf, None, "Block 0")
    assert caught.value.code == "NO_GRADIENT"
    assert "Block 0" in caught.value.message
