import json
from pathlib import Path

import pytest
from helpers import edit_json, tiny_model

from quip_engine.errors import QuipError
from quip_engine.footprint import PROGRAM, WORK, answering_bytes, memory_with, weights_within


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_weights_and_caches_are_counted(tmp_path: Path, family: str) -> None:
    folder = tiny_model(tmp_path, family)
    weights = round(WORK * (folder / "model.safetensors").stat().st_size)
    each = answering_bytes(folder, 1, loaded=True)
    assert answering_bytes(folder, 10) == weights + 10 * each
    assert answering_bytes(folder, 10**6, loaded=True) == 64 * each  # the context is 64 tokens


def test_a_cache_holds_keys_and_values_of_each_block(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    width = config["hidden_size"] // config["num_attention_heads"]
    expected = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * width * 4
    assert answering_bytes(folder, 1, loaded=True) == expected


def test_weights_that_fit_and_the_memory_they_take(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    own = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert memory_with(folder, own, 16) == PROGRAM + answering_bytes(folder, 16)
    assert own - 1 <= weights_within(folder, memory_with(folder, own, 16), 16) <= own
    assert weights_within(folder, 10**6, 16) < 0


def test_what_cannot_answer_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    edit_json(folder / "config.json", rope_scaling="nonsense", model_type="nonsense")
    with pytest.raises(QuipError) as caught:
        answering_bytes(folder, 1)
    assert caught.value.code == "LOAD_FAILED"
    (folder / "config.json").write_text("{")
    with pytest.raises(QuipError) as caught:
        answering_bytes(folder, 1)
    assert caught.value.code == "BAD_CONFIG"
