"""The size of weight files is known to the byte before they are written."""

import random
import threading

import pytest
import torch
from helpers import tiny_model
from safetensors.torch import save_file

from quip_engine.embedding import embedding_format
from quip_engine.probe import probe
from quip_engine.sizes import ORDER, StoredTensor, WeightFiles, file_bytes


@pytest.mark.parametrize("seed", range(8))
def test_a_file_takes_what_is_said(tmp_path, seed):
    draw = random.Random(seed)
    tensors = {}
    for _ in range(draw.randint(1, 60)):
        name = draw.choice(["a.{}.weight", "b.é{}", 'c"{}\\']).format(draw.randint(0, 10**6))
        shape = [draw.randint(0, 40) for _ in range(draw.randint(0, 3))]
        tensors[name] = torch.zeros(shape, dtype=getattr(torch, draw.choice(ORDER)))
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    expected = file_bytes(StoredTensor(name, t.dtype, tuple(t.shape)) for name, t in tensors.items())
    assert expected == (tmp_path / "file").stat().st_size


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_as_it_is(tmp_path, tied):
    facts = probe(str(tiny_model(tmp_path, tie_word_embeddings=tied)))
    files = WeightFiles(facts)
    names = {tensor.name for tensor in files.outside}
    assert ("lm_head.weight" in names) == (not tied) and len(files.blocks) == facts.blocks
    assert sum(tensor.bytes for block in [files.outside, *files.blocks] for tensor in block) < facts.bytes
    packed = WeightFiles(facts, embedding_format(8))
    assert {"model.embed_tokens.codes", "model.embed_tokens.scale"} < {tensor.name for tensor in packed.outside}
    assert packed.bytes({}) < files.bytes({})


def test_a_tied_head_is_counted_once_while_other_threads_build_models(assets):
    facts = probe(str(assets / "demo-model"))
    building = threading.Thread(target=lambda: [probe(str(assets / "demo-model")) for _ in range(4)])
    building.start()
    found = {WeightFiles(facts).bytes({})}
    while building.is_alive():
        found.add(WeightFiles(facts).bytes({}))
    assert len(found) == 1
