"""Every architecture, in the forms it comes in: from a folder to a finished checkpoint that loads and saves again."""

import pytest
import torch
from helpers import ENCODERS, EXPERTS, FAMILIES, made_up_text, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import quip_engine  # noqa: F401 - registers the format
from quip_engine import events
from quip_engine.architecture import hold_weights, weight_of
from quip_engine.checkpoint import verify
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.experts import unfuse
from quip_engine.linear import QuantizedLinear
from quip_engine.pipeline import quantize_model
from quip_engine.probe.settings import SUPPORTED

TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
# What a family has beside the form in ``helpers``.
FORMS = {
    "llama": {"tied": TIED, "biases": {"attention_bias": True, "mlp_bias": True}},
    "mistral": {"tied": TIED, "window": {"sliding_window": 8}},
    "qwen2": {"untied": UNTIED, "window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}},
    "qwen3": {"tied": TIED, "biases": {"attention_bias": True}},
    "opt": {"untied": UNTIED, "no biases": {"enable_bias": False}, "norm last": {"do_layer_norm_before": False}},
    "gpt2": {"untied": UNTIED},
    "gemma2": {"untied": UNTIED, "biases": {"attention_bias": True}},
    "gemma3_text": {"untied": UNTIED, "biases": {"attention_bias": True}},
    "phi3": {
        "tied": TIED,
        "no window": {"sliding_window": None},
        "long rope": {
            "rope_parameters": {
                **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32},
                **{"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]},
            }
        },
    },
    "gpt_neox": {"tied": TIED, "one after the other": {"use_parallel_residual": False, "attention_bias": False}},
    "mixtral": {"tied": TIED, "window": {"sliding_window": 8}},
    "qwen3_moe": {"tied": TIED, "dense block": {"mlp_only_layers": [0], "norm_topk_prob": True}},
    "bert": {},
}
CASES = [(family, "", {}) for family in [*FAMILIES, *ENCODERS]]
CASES += [(family, name, form) for family, forms in FORMS.items() for name, form in forms.items()]
IDS = torch.arange(1, 41)[None]  # longer than the windows


def test_the_table_has_every_supported_architecture() -> None:
    assert FORMS.keys() == SUPPORTED.keys() == {*FAMILIES, *ENCODERS}
    assert {*EXPERTS} < {*FAMILIES}


def source(tmp_path, family, **values):
    """A tiny model whose biases are not zero."""
    model = tiny_model(tmp_path, family, **values)
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(model / "model.safetensors")
    for tensor in tensors.values():
        if not tensor.any():
            tensor.normal_(std=0.1, generator=generator)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


def quantized(model, tmp_path):
    """The finished folder of a model, and the events on the way."""
    text = tmp_path / "calibration.txt"
    text.write_text(made_up_text(2000))
    job = JobConfig(str(model), str(tmp_path / "out"), calibration=CalibrationConfig(str(text), 8, 32), threads=1)
    return tmp_path / "out", list(quantize_model(job, tmp_path / "work", lambda: False))


def states(model):
    with torch.no_grad():
        output = model(IDS)
    return output.last_hidden_state if "last_hidden_state" in output else output.logits


def distance(a, b):
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(("family", "form", "values"), CASES, ids=[f"{f}-{n}".strip("-") for f, n, _ in CASES])
def test_from_a_folder_to_a_checkpoint_that_loads(tmp_path, family, form, values):
    """What is loaded computes what the dequantized weights say: 1.4e-6 measured at most."""
    auto = AutoModel if family in ENCODERS else AutoModelForCausalLM
    model = source(tmp_path, family, **values)
    out, found = quantized(model, tmp_path)
    reports = {e.name: e for e in found if isinstance(e, events.LayerQuantized)}
    started = next(e for e in found if isinstance(e, events.RunStarted))
    assert reports.keys() == {layer["name"] for layer in started.layers}
    assert all(0 < e.rel_proxy < 0.3 for e in reports.values())
    assert found[-1].bytes == sum(path.stat().st_size for path in out.iterdir())
    assert not (tmp_path / "work").exists()
    verify(out)

    packed = auto.from_pretrained(out).eval()
    layers = {name: m for name, m in packed.named_modules() if isinstance(m, QuantizedLinear)}
    assert layers.keys() == reports.keys()
    dense = auto.from_pretrained(model).eval()
    unfuse(dense)
    original = states(dense)
    with torch.no_grad():
        for name, layer in layers.items():
            weight_of(dense.get_submodule(name)).copy_(layer.dequantize())
    assert distance(states(packed), states(dense)) < 1e-4
    assert distance(states(packed), original) > 1e-3
    if family not in ENCODERS:
        head, embedding = packed.get_output_embeddings().weight, packed.get_input_embeddings().weight
        assert (head is embedding) == packed.config.tie_word_embeddings

    packed.save_pretrained(tmp_path / "again")
    again = auto.from_pretrained(tmp_path / "again").state_dict()
    for name, tensor in packed.state_dict().items():
        assert torch.equal(tensor, again[name]) and tensor.dtype == again[name].dtype, name
    stored = [name for path in out.glob("*.safetensors") for name in load_file(path)]
    assert {*load_file(tmp_path / "again" / "model.safetensors")} == {*stored}


def test_weights_wait_in_a_type_that_holds_them():
    exact, longer = (torch.nn.Linear(4, 4, dtype=torch.float32) for _ in range(2))
    exact.weight.data = exact.weight.data.bfloat16().float()
    before = [layer.weight.data.clone() for layer in (exact, longer)]
    layers = {"exact": exact, "longer": longer}
    hold_weights(layers, torch.bfloat16)
    assert (exact.weight.dtype, longer.weight.dtype, exact.bias.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    hold_weights(layers, torch.float32)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers.values(), before, strict=True))
