"""Blocks loaded one at a time compute what the whole model computes, to the bit."""

import pytest
import torch
from helpers import ENCODERS, EXPERTS, FAMILIES, tiny_model
from transformers import AutoModel, AutoModelForCausalLM

from quip_engine.activations import Activations, block_hessians
from quip_engine.errors import QuipError
from quip_engine.skeleton import Skeleton

CPU = torch.device("cpu")
KINDS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
THREE = {"gemma2": KINDS, "gemma3_text": KINDS}  # kinds of three blocks


def tokens_for(samples=6, length=16):
    return torch.randint(5, 200, (samples, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_streamed_blocks_equal_the_whole_model(tmp_path, family):
    """Experts one by one differ from fused ones in the order of sums: 1e-7 measured."""
    folder = tiny_model(tmp_path, family, num_hidden_layers=3, **THREE.get(family, {}))
    tokens = tokens_for()
    auto = AutoModel if family in ENCODERS else AutoModelForCausalLM
    whole = auto.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = whole(tokens, output_hidden_states=True, use_cache=False).hidden_states

    skeleton = Skeleton(folder, CPU)
    skeleton.load_outside()
    activations = Activations(skeleton, tokens)
    skeleton.release_outside()
    for index in range(len(skeleton.blocks) - 1):  # the last hidden state is normed in transformers' list
        torch.testing.assert_close(activations.hidden, expected[index], rtol=0, atol=1e-6 if family in EXPERTS else 0)
        block = skeleton.load_block(index)
        activations.advance(block, index)
        skeleton.release_block(index)
        assert all(p.is_meta for p in skeleton.model.parameters())


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_hessians_are_shared_where_inputs_are(tmp_path, family):
    skeleton = Skeleton(tiny_model(tmp_path, family), CPU)
    skeleton.load_outside()
    activations = Activations(skeleton, tokens_for())
    block = skeleton.load_block(0)
    groups = block_hessians(block, 0, activations)
    names = [[n.rpartition(".")[2] for n in group] for group, _ in groups]
    attention, expert = [["q_proj", "k_proj", "v_proj"], ["o_proj"]], [["gate_proj", "up_proj"], ["down_proj"]]
    expected = {
        "opt": [["k_proj", "v_proj", "q_proj"], ["out_proj"], ["fc1"], ["fc2"]],
        "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
        "phi3": [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]],
        "gpt_neox": [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]],
        "bert": [["query", "key", "value"], ["dense"], ["dense"], ["dense"]],
        **dict.fromkeys(EXPERTS, attention + 4 * expert),
    }.get(family, attention + expert)
    assert [sorted(n) for n in names] == [sorted(n) for n in expected]
    for _, hessian in groups:
        assert torch.isfinite(hessian.matrix()).all()


def test_hessian_is_the_second_moment_of_what_the_layer_reads(tmp_path):
    skeleton = Skeleton(tiny_model(tmp_path, "llama"), CPU)
    skeleton.load_outside()
    activations = Activations(skeleton, tokens_for())
    block = skeleton.load_block(0)
    inputs = []
    handle = block.mlp.down_proj.register_forward_pre_hook(
        lambda _m, args: inputs.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    groups = {names[0]: h for names, h in block_hessians(block, 0, activations)}
    handle.remove()
    x = torch.cat(inputs).double()
    torch.testing.assert_close(groups["mlp.down_proj"].matrix().double(), x.T @ x / len(x), rtol=1e-5, atol=1e-9)


def test_activations_restart_at_a_later_block(tmp_path):
    skeleton = Skeleton(tiny_model(tmp_path, "llama"), CPU)
    skeleton.load_outside()
    tokens = tokens_for()
    first = Activations(skeleton, tokens)
    first.advance(skeleton.load_block(0), 0)
    again = Activations(skeleton, tokens, first.hidden.clone())
    block = skeleton.load_block(1)
    first.advance(block, 1)
    again.advance(block, 1)
    assert torch.equal(first.hidden, again.hidden)


def test_a_model_that_vanishes_is_named(tmp_path):
    folder = tiny_model(tmp_path, "llama")
    skeleton = Skeleton(folder, CPU)
    (folder / "model.safetensors").unlink()
    with pytest.raises(QuipError) as caught:
        skeleton.load_block(0)
    assert caught.value.code == "SOURCE_CHANGED"
