"""Facts of packed folders: counted from headers, and only for folders that could be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import VOCABULARY, edit_json, write_tokenizer
from packed_models import packed
from published_folders import qtip_folder, quip_sharp_folder
from safetensors.torch import load_file, save_file

from quip_engine.errors import QuipError
from quip_engine.linear import QuantizedLinear
from quip_engine.loading import load_model
from quip_engine.packed import PackedFacts, packed_facts
from quip_engine.probe.packing import packing_of
from quip_engine.probe.settings import read_config

CPU = torch.device("cpu")


def facts_of(folder: Path) -> PackedFacts:
    packing = packing_of(read_config(folder), folder)
    assert packing is not None
    return packed_facts(folder, folder.name, packing)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "mixtral", "bert"])
def test_ours(tmp_path: Path, family: str) -> None:
    out, dense = packed(tmp_path, family)
    facts, encoder = facts_of(out), family == "bert"
    model, _ = load_model(out, CPU, encoder=encoder)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    bits = sum(8 * t.nbytes for layer in layers for t in layer.tensors().values())
    assert facts.bits_per_weight == bits / sum(layer.in_features * layer.out_features for layer in layers)
    assert facts.parameters == sum(p.numel() for p in dense.parameters())
    assert (len(facts.linear_layers), facts.kept, facts.blocks) == (len(layers), [], 2)
    assert (facts.packing.source, facts.packing.method) == (family, "quip#")
    assert facts.runs_with == (["`embed`"] if encoder else ["`generate`", "Compare"])
    assert [code for code, _ in facts.warnings] == ([] if encoder else ["NO_TEMPLATE"])
    assert facts.bytes == sum(path.stat().st_size for path in out.glob("*.safetensors"))
    json.dumps(facts.to_json())


def test_published_quip_sharp(tmp_path: Path) -> None:
    """Codes of 2 bits; of a matrix's other bytes most are its two vectors of 16-bit numbers."""
    folder, weights = quip_sharp_folder(tmp_path / "published")
    facts = facts_of(folder)
    assert str(facts.packing) == "QuIP# as published, 2 bits"
    stored = {name: t.nbytes for name, t in load_file(folder / "model.safetensors").items() if "_proj." in name}
    count = sum(W.numel() for name, W in weights.items() if "_proj." in name)
    assert facts.bits_per_weight == 8 * sum(stored.values()) / count
    assert facts.parameters == sum(W.numel() for W in weights.values())
    assert (len(facts.linear_layers), facts.kept) == (14, [])


def test_published_qtip(tmp_path: Path) -> None:
    facts = facts_of(qtip_folder(tmp_path / "published", 3, skip=("1_down",))[0])
    assert str(facts.packing) == "QTIP as published, 3 bits"
    assert facts.kept == ["model.layers.1.mlp.down_proj"]
    assert facts.bits_per_weight > 3


def test_published_and_saved_as_ours(tmp_path: Path) -> None:
    folder, _ = quip_sharp_folder(tmp_path / "published")
    model, _ = load_model(folder, CPU)
    model.save_pretrained(tmp_path / "ours")
    write_tokenizer(tmp_path / "ours")
    before, after = facts_of(folder), facts_of(tmp_path / "ours")
    assert (after.linear_layers, after.kept, after.parameters) == (before.linear_layers, [], before.parameters)
    assert str(after.packing) == "quip#, 2 bits"
    assert after.bits_per_weight > 2


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    def refused(folder: Path, code: str, words: str) -> None:
        with pytest.raises(QuipError) as caught:
            facts_of(folder)
        assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message

    folder, name = packed(tmp_path)[0], "model.layers.1.mlp.up_proj.codes"
    file = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(file)
    del tensors[name]
    file.unlink()  # it may be a link
    save_file(tensors, file)
    refused(folder, "BAD_CHECKPOINT", f"{name} is missing")
    edit_json(folder / "config.json", vocab_size=200)
    refused(folder, "VOCAB_MISMATCH", "200 rows")
    edit_json(folder / "config.json", vocab_size=VOCABULARY)
    edit_json(folder / "config.json", rope_parameters="default")
    refused(folder, "BAD_CONFIG_VALUE", "rope")
    file.unlink()
    refused(folder, "SHARD_MISSING", file.name)
    folder, _ = qtip_folder(tmp_path / "published")
    edit_json(folder / "config.json", num_hidden_layers=3)
    refused(folder, "BAD_CHECKPOINT", "is missing")
    shutil.copy(folder / "config.json", tmp_path)
    refused(tmp_path, "NO_WEIGHTS", "has no weights")
