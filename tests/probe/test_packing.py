"""What folders say of their packing, true or not, is read without harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import edit_json, tiny_model

from quip_engine.checkpoint import MANIFEST
from quip_engine.errors import QuipError
from quip_engine.probe import probe
from quip_engine.probe.packing import packing_of

OURS = {"quant_method": "quip", "method": "qtip", "bits": 2}
PUBLISHED: list[tuple[Any, str]] = [
    ({"codebook": "E8P12"}, "QuIP# as published, 2 bits"),
    ({"codebook": "E8P12RVQ3B"}, "QuIP# as published, 3 bits"),
    ({"codebook": "E8P12RVQ4B"}, "QuIP# as published, 4 bits"),
    ({"codebook": "D4"}, "QuIP# as published"),
    ({"codebook": ["E8P12"]}, "QuIP# as published"),
    ({"codebook": "bitshift", "K": 3}, "QTIP as published, 3 bits"),
    ({"codebook": "bitshift", "K": "3"}, "QTIP as published"),
    ({"codebook": "bitshift", "K": 10**400}, "QTIP as published"),
    ([], "QuIP# as published"),
    (None, "QuIP# as published"),
]


@pytest.mark.parametrize(("params", "words"), PUBLISHED, ids=[str(case[0])[:40] for case in PUBLISHED])
def test_published(params: Any, words: str, tmp_path: Path) -> None:
    packing = packing_of({"quip_params": params}, tmp_path)
    assert packing is not None and not packing.ours
    assert str(packing) == words


MANIFESTS: list[tuple[str | None, str]] = [
    ('{"model": "small", "bits_per_weight": 2.0061}', "qtip, 2.006 bits per weight, made from small"),
    ('{"model": 7, "bits_per_weight": NaN}', "qtip, 2 bits"),
    ('{"model": "small"}', "qtip, 2 bits, made from small"),
    ("[1]", "qtip, 2 bits"),
    ("{", "qtip, 2 bits"),
    (None, "qtip, 2 bits"),
]


@pytest.mark.parametrize(("manifest", "words"), MANIFESTS)
def test_ours(manifest: str | None, words: str, tmp_path: Path) -> None:
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(manifest)
    packing = packing_of({"quantization_config": OURS}, tmp_path)
    assert packing is not None and packing.ours
    assert str(packing) == words


def test_ours_that_says_nothing(tmp_path: Path) -> None:
    entry = {"quant_method": "quip", "method": ["x"], "bits": True}
    assert str(packing_of({"quantization_config": entry}, tmp_path)) == "unknown method"


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "gptq"}}, {"quantization_config": 3}])
def test_others(config: dict[str, Any], tmp_path: Path) -> None:
    assert packing_of(config, tmp_path) is None


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        (
            {"quip_params": {"codebook": "bitshift", "K": 2}},
            "ALREADY_QUANTIZED",
            "QTIP as published, 2 bits; it runs packed as it is, with `generate` and Compare",
        ),
        ({"quantization_config": OURS}, "OWN_OUTPUT", "(qtip, 2 bits; it runs packed as it is, with `generate` and"),
    ],
)
def test_the_refusal_says_what_it_is(config: dict[str, Any], code: str, words: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    edit_json(folder / "config.json", **config)
    with pytest.raises(QuipError) as caught:
        probe(str(folder))
    assert caught.value.code == code
    assert words in caught.value.message
    assert "original model" in caught.value.hint
    json.dumps(caught.value.to_json())
