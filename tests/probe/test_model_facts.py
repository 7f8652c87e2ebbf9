"""Facts and warnings of folders that are good, or good enough."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ENCODERS, EXPERTS, FAMILIES, VOCABULARY, edit_json, processor_time, tiny_model
from safetensors.torch import load_file, save_file

from quip_engine.probe import probe

WEIGHTS = "model.safetensors"


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(found)
    save_file(found, folder / WEIGHTS)


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_facts_of_every_family(family: str, tmp_path: Path) -> None:
    facts = probe(str(tiny_model(tmp_path, family, dtype=torch.bfloat16)))
    assert (facts.name, facts.model_type, facts.blocks, facts.hidden) == (f"tiny-{family}", family, 2, 32)
    assert (facts.vocabulary, facts.context, facts.dtype) == (VOCABULARY, 64, "bfloat16")
    config = json.loads((Path(facts.path) / "config.json").read_text())
    assert facts.tied == (config["tie_word_embeddings"] and family not in ENCODERS)
    assert facts.routed == (0.5 if family in EXPERTS else 1)
    stored = {_in_the_model(name): tensor for name, tensor in load_file(Path(facts.path) / WEIGHTS).items()}
    assert (facts.tensors, facts.parameters) == (len(stored), sum(t.numel() for t in stored.values()))
    assert facts.unquantized_bytes == sum(t.nbytes for t in stored.values()) - 2 * sum(
        m * n for m, n in (layer.shape for layer in facts.linear_layers)
    )
    for layer in facts.linear_layers:
        assert sorted(stored[f"{layer.name}.weight"].shape) == sorted(layer.shape)
    names = [(layer.block, layer.projection) for layer in facts.linear_layers]
    assert len(set(names)) == len(names)
    json.dumps(facts.to_json())


def _in_the_model(name: str) -> str:
    """The name a tensor of a file has in the model: Mixtral's files have names of their own for experts."""
    name = name.replace("block_sparse_moe", "mlp")
    return re.sub(r"w([123])\.weight", lambda m: ["gate", "down", "up"][int(m[1]) - 1] + "_proj.weight", name)


def test_linear_layers_are_outputs_by_inputs(tmp_path: Path) -> None:
    facts = probe(str(tiny_model(tmp_path, "gpt2")))
    shapes = {layer.projection: layer.shape for layer in facts.linear_layers}
    assert shapes == {"c_attn": (96, 32), "attn.c_proj": (32, 32), "c_fc": (48, 32), "mlp.c_proj": (32, 48)}


def test_names_of_the_base_model_and_buffers_of_old_files(tmp_path: Path) -> None:
    """Files of the GPT-2 of the hub: ``h.0...`` instead of ``transformer.h.0...``, with causal masks."""
    folder = tiny_model(tmp_path, "gpt2")
    stored = {n.removeprefix("transformer."): t for n, t in load_file(folder / WEIGHTS).items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(stored, folder / WEIGHTS)
    assert [code for code, _ in probe(str(folder)).warnings] == ["NO_TEMPLATE"]


def test_names_of_the_first_gpt_neox(tmp_path: Path) -> None:
    """The head as ``embed_out``, causal masks and rotary frequencies among the tensors."""
    folder = tiny_model(tmp_path, "gpt_neox")
    whole = probe(str(folder))

    def as_before(tensors: dict[str, torch.Tensor]) -> None:
        assert "embed_out.weight" in tensors
        for block in range(2):
            attention = f"gpt_neox.layers.{block}.attention"
            tensors[f"{attention}.bias"] = torch.ones(1, 1, 64, 64)
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)

    change_tensors(folder, as_before)
    facts = probe(str(folder))
    assert [code for code, _ in facts.warnings] == ["NO_TEMPLATE"]
    assert (facts.parameters, facts.linear_layers) == (whole.parameters, whole.linear_layers)


def test_position_encodings_of_phi3(tmp_path: Path) -> None:
    """As its files have them, in an older key."""
    folder = tiny_model(tmp_path, "phi3")
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    old = {"rope_scaling": rope, "original_max_position_embeddings": 32, "pad_token_id": 0}
    edit_json(folder / "config.json", rope_parameters=None, **old)
    assert probe(str(folder)).context == 64


def test_shards_have_the_facts_of_one_file(good: Path, good_shards: Path) -> None:
    one, many = probe(str(good)), probe(str(good_shards))
    assert len(list(good_shards.glob("model-*.safetensors"))) > 2
    assert (one.parameters, one.linear_layers) == (many.parameters, many.linear_layers)


def test_licence(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    assert probe(str(folder)).licence is None
    (folder / "LICENSE.txt").write_text("text")
    assert probe(str(folder)).licence == "see LICENSE.txt"
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n")
    assert probe(str(folder)).licence == "apache-2.0"


SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
MESSAGES = "{% for m in messages %}{{ m['role'] }}: {% generation %}{{ m['content'] }}{% endgeneration %}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "NO_TEMPLATE"),
        (MESSAGES, None),
        ("{% for m in %}", "BAD_TEMPLATE"),
        ("{{ raise_exception('no') }}", "BAD_TEMPLATE"),
        ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", "BAD_TEMPLATE"),
        (SLOW, "BAD_TEMPLATE"),
        ("{{ 'a' * 4000000000 }}", "BAD_TEMPLATE"),
    ],
)
def test_chat_template(good: Path, tmp_path: Path, template: str | None, expected: str | None) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    started = processor_time()
    facts = probe(str(folder))
    assert processor_time() - started < 2
    assert facts.chat_template is (expected is None)
    assert [code for code, _ in facts.warnings] == ([expected] if expected else [])


def test_tied_head_that_differs(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "qwen2")
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert probe(str(folder)).tied
    change_tensors(folder, lambda t: t["lm_head.weight"].add_(1))
    facts = probe(str(folder))
    assert not facts.tied
    assert "TIED_MISMATCH" in [code for code, _ in facts.warnings]


def test_tensors_of_no_use_are_named(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "model")
    change_tensors(folder, lambda t: t.update(surplus=torch.ones(3)))
    warnings = dict(probe(str(folder)).warnings)
    assert "surplus" in warnings["TENSOR_EXTRA"]


def test_reference_models(reference: Path, assets: Path) -> None:
    for folder in [*sorted((reference / "models").iterdir()), assets / "demo-model"]:
        facts = probe(str(folder))
        assert (facts.architecture, len(facts.linear_layers)) == ("LlamaForCausalLM", 7 * facts.blocks)
