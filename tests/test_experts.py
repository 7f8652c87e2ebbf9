"""Mixture of experts one by one: the same outputs, the same names everywhere, and few tokens are never silent."""

import json

import pytest
import torch
from helpers import EXPERTS, made_up_text, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quip_engine import block_work, events
from quip_engine.activations import Activations, block_hessians
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.errors import fail
from quip_engine.experts import Experts, expert_modules, unfuse
from quip_engine.few_tokens import fill_up
from quip_engine.linear import QuantizedLinear
from quip_engine.pipeline import quantize_model
from quip_engine.skeleton import Skeleton

IDS = torch.arange(1, 41)[None]
CPU = torch.device("cpu")


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def quantized(folder, tmp_path):
    """The finished folder of a model, and the events on the way."""
    text, out = tmp_path / "calibration.txt", tmp_path / "out"
    text.write_text(made_up_text(2000))
    job = JobConfig(str(folder), str(out), calibration=CalibrationConfig(str(text), 8, 32), threads=1)
    return out, list(quantize_model(job, tmp_path / "work", lambda: False))


def biased(folder, loads):
    """Let the router of every block prefer its experts by ``loads`` (one value each)."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight")):
            tensor.copy_(torch.tensor(loads)[:, None] * torch.ones_like(tensor))
        elif name.endswith("post_attention_layernorm.weight"):
            tensor.fill_(1)
        elif name.endswith("embed_tokens.weight"):
            tensor.add_(0.05)  # so that the sum of a token's state is positive
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("values", [{}, {"num_experts_per_tok": 1}, {"num_experts_per_tok": 4, "norm_topk_prob": True}])
@pytest.mark.parametrize("family", EXPERTS)
def test_unfused_experts_compute_what_fused_ones_do(tmp_path, family, values):
    """Largest difference measured: 6e-8 of logits up to 2."""
    model = load(tiny_model(tmp_path, family, initializer_range=0.1, **values))
    fused = logits(model)
    unfuse(model)
    assert len(expert_modules(model)) == 2
    assert (logits(model) - fused).abs().max() < 1e-5
    whole = load(tmp_path / f"tiny-{family}").to(torch.bfloat16)
    expected = logits(whole)
    unfuse(whole)
    torch.testing.assert_close(logits(whole), expected, rtol=0.05, atol=0.05)


def test_an_expert_that_nobody_chose_is_not_called():
    experts = Experts(torch.randn(3, 8, 6), torch.randn(3, 6, 4), torch.nn.SiLU())
    called = []
    for number, expert in enumerate(experts):
        expert.register_forward_hook(lambda *_args, number=number: called.append(number))
    x, chosen, weights = torch.randn(5, 6), torch.tensor([[2]] * 5), torch.ones(5, 1)
    y = experts(x, chosen, weights)
    assert called == [2]
    torch.testing.assert_close(y, experts[2](x))
    experts.see_all = frozenset({0})
    called.clear()
    assert torch.equal(experts(x, chosen, weights), y)
    assert called == [0, 2]


def filled(folder, tokens):
    """Groups of the first block before and after ``fill_up``, and its notes."""
    skeleton = Skeleton(folder, CPU)
    skeleton.load_outside()
    activations = Activations(skeleton, tokens)
    block = skeleton.load_block(0)
    before = block_hessians(block, 0, activations)
    after = block_hessians(block, 0, activations)
    notes = fill_up(block, 0, activations, after)
    assert all(not experts.see_all for experts in expert_modules(block).values())
    return block, activations, before, after, notes


@pytest.mark.parametrize("family", EXPERTS)
def test_hessians_of_few_tokens_are_filled_up_from_all(tmp_path, family):
    """One expert sees all tokens, one most of them, two none; the width is 32."""
    folder = tiny_model(tmp_path, family, initializer_range=0.1)
    tokens = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(1))
    block, activations, before, after, notes = filled(folder, tokens)
    routed, result = ({names[0]: h for names, h in groups} for groups in (before, after))
    seen = []
    block.mlp.experts.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for _place, run in activations.batches(0):
        run(block)
    x = torch.cat(seen)
    for number, expert in enumerate(block.mlp.experts):
        path = f"mlp.experts.{number}"
        inner = expert.act_fn(expert.gate_proj(x)) * expert.up_proj(x)
        for name, inputs in ((f"{path}.gate_proj", x), (f"{path}.down_proj", inner)):
            count = routed[name].tokens if name in routed else 0
            assert count < 32  # 24 tokens in all
            share = count / 32
            own = routed[name].matrix() if count else torch.zeros(inputs.shape[1], inputs.shape[1])
            expected = share * own + (1 - share) * inputs.T @ inputs / len(inputs)
            torch.testing.assert_close(result[name].matrix(), expected, rtol=1e-4, atol=1e-7)
            assert notes[name] == notes[name.replace("gate", "up")]
            assert f"saw {count} tokens, fewer than 32 inputs" in notes[name]
    attention = [name for name in result if "self_attn" in name]
    assert attention and all(torch.equal(routed[name].matrix(), result[name].matrix()) for name in attention)


def test_enough_tokens_change_nothing(tmp_path):
    folder = tiny_model(tmp_path, "mixtral", initializer_range=0.1)
    tokens = torch.randint(5, 200, (40, 32), generator=torch.Generator().manual_seed(1))
    _, _, before, after, notes = filled(folder, tokens)
    assert notes == {}
    assert all(torch.equal(a.matrix(), b.matrix()) for (_, a), (_, b) in zip(before, after, strict=True))


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_that_no_token_reached_are_named_in_the_result(tmp_path, family):
    folder = tiny_model(tmp_path, family)
    biased(folder, [3.0, 2.0, -1.0, -2.0])
    out, found = quantized(folder, tmp_path)
    warned = [e.message for e in found if isinstance(e, events.Warned) and e.code == "FEW_TOKENS"]
    assert [message.partition(";")[0] for message in warned] == [
        f"Block {i}: 2 experts saw fewer tokens than they have inputs (2, 3)" for i in range(2)
    ]
    notes = {layer["name"]: layer["notes"] for layer in read_manifest(out)["layers"]}
    unseen = {name for name, found in notes.items() if any("saw 0 tokens" in note for note in found)}
    parts = ("gate_proj", "up_proj", "down_proj")
    assert unseen == {f"model.layers.{i}.mlp.experts.{e}.{part}" for i in range(2) for e in (2, 3) for part in parts}
    assert found[-1].skipped == []
    load(out)


@pytest.mark.parametrize("family", EXPERTS)
def test_an_expert_that_stayed_dense_is_not_merged(tmp_path, family, monkeypatch):
    """Its name in the file is one that transformers would merge with those of other experts."""
    real = block_work.quantize_weight

    def fails_for_one(W, H, recipe, *, name, **rest):
        if name.endswith(("experts.1.gate_proj", "experts.1.up_proj", "experts.1.down_proj")):
            fail("WIDTH_UNSUPPORTED", name=name, reason="it is too odd", remedy="Leave it out.")
        return real(W, H, recipe, name=name, **rest)

    monkeypatch.setattr(block_work, "quantize_weight", fails_for_one)
    folder = tiny_model(tmp_path, family)
    out, _ = quantized(folder, tmp_path)
    packed, dense = load(out), load(folder)
    unfuse(dense)
    for i in range(2):
        kept, original = packed.model.layers[i].mlp.experts[1], dense.model.layers[i].mlp.experts[1]
        assert torch.equal(kept.gate_proj.weight, original.gate_proj.weight)
        assert torch.equal(kept.down_proj.weight, original.down_proj.weight)
        assert isinstance(packed.model.layers[i].mlp.experts[0].up_proj, QuantizedLinear)
    packed.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    assert torch.equal(logits(packed), logits(again))


@pytest.mark.parametrize("family", EXPERTS)
def test_the_router_and_its_choices_stay(tmp_path, family):
    folder = tiny_model(tmp_path, family)
    out, _ = quantized(folder, tmp_path)
    packed, dense = load(out), load(folder)
    for a, b in zip(packed.model.layers, dense.model.layers, strict=True):
        assert torch.equal(a.mlp.gate.weight, b.mlp.gate.weight)
    tokens = packed.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert tokens.shape == (1, 45)
    layers = json.loads((out / "config.json").read_text())["quantization_config"]["layers"]
    assert sum("experts" in name for name in layers) == 2 * 4 * 3
    assert not any("gate" in name.split(".")[-1] and "proj" not in name for name in layers)
