"""The lists of the Models tab: what each model is and why not, and what suggested ones would cost here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny_model
from huggingface_hub import constants
from packed_models import packed

from app import library_views as views
from app.library import DEMO, Library, entry
from app.suggestions import MODELS, Suggestion, suggest
from quip_engine.errors import QuipError
from quip_engine.estimate import Estimate
from quip_engine.hub import Listing
from quip_engine.probe import probe
from quip_engine.probe.folder import weight_files
from quip_engine.probe.headers import read_all
from quip_engine.probe.planned import planned_facts


def test_the_glance_agrees_with_the_probe(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    seen, facts = entry(folder, str(folder), "folder"), probe(str(folder))
    assert seen is not None
    assert (seen.supported, seen.why, seen.packed) == (True, "", "")
    assert (seen.parameters, seen.blocks, seen.bytes) == (facts.parameters, facts.blocks, facts.bytes)
    assert (seen.context, seen.licence) == (facts.context, facts.licence)
    assert seen.small is not None
    assert seen.small < seen.bytes


def test_a_packed_folder_is_told_as_such(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    seen = entry(folder, str(folder), "folder")
    assert seen is not None
    assert not seen.supported
    assert seen.packed
    html = views.shelf([seen])
    assert "packed already" in html
    assert f'data-action="compare:{folder}"' in html
    assert "use:" not in html


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "load code"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "already quantized (4-bit gptq)"),
    ],
)
def test_why_not(tmp_path: Path, change: dict, why: str) -> None:
    folder = tiny_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    seen = entry(folder, str(folder), "folder")
    assert seen is not None
    assert why in seen.why
    assert why.replace("'", "&#x27;") in views.shelf([seen])


def test_a_look_is_kept_until_something_changes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    library = Library(home)
    assert [e.model for e in library.seen()] == [str(DEMO)]
    assert library.seen() is library.seen()
    folder = tiny_model(tmp_path)
    library.add(folder)
    assert str(folder) in [e.model for e in library.seen()]


def test_planned_facts_are_those_of_the_probe(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    planned, probed = planned_facts("tiny", config), probe(str(folder))
    for name in ("parameters", "blocks", "hidden", "vocabulary", "context", "unquantized_bytes", "tensors"):
        assert getattr(planned, name) == getattr(probed, name), name
    assert planned.bytes == sum(tensor.bytes for tensor in read_all(weight_files(folder)).values())
    assert planned.linear_layers == probed.linear_layers


def test_the_smallest_suggestion() -> None:
    """The hub lists 134,515,008 parameters for it, and 269 MB."""
    item = suggest(MODELS[0], "cpu")
    assert item.facts.parameters == 134_515_008
    assert item.facts.bytes == 2 * 134_515_008
    assert item.costs.bytes < item.facts.bytes / 3


def test_a_stored_head_counts_for_the_download_only() -> None:
    """Qwen3-0.6B has 596 M parameters; its file holds 751,632,384 numbers."""
    model = next(m for m in MODELS if m.name == "Qwen/Qwen3-0.6B")
    facts = planned_facts(model.name, model.config, stored_head=model.stored_head)
    assert facts.bytes == 2 * 751_632_384
    assert facts.parameters == 596_049_920


def test_fits_tight_too_large_and_the_buttons() -> None:
    facts = planned_facts(MODELS[0].name, MODELS[0].config)
    item = Suggestion(MODELS[0], facts, Estimate(10, 2.0, 100, 60.0, 10))
    assert [item.fits(total)[0] for total in (126, 101, 99)] == ["fits", "tight", "too large"]
    name = MODELS[0].name
    assert f'data-action="get:{name}"' in views.suggested([item], 126, [], [])
    assert " disabled" in views.suggested([item], 126, [], [name])
    assert f'data-action="use:{name}"' in views.suggested([item], 126, [name], [name])
    assert "Working out" in views.suggested(None, 126, [], [])


def test_what_a_search_found_is_escaped_and_explained() -> None:
    refusal = QuipError("X", "It is <odd>.", "Try another.")
    found = Listing("a/b", "sha", {}, None, None, "Odd", None, True, None, refusal)
    html = views.results([found], "b")
    assert "It is &lt;odd&gt;." in html
    assert "asks for a licence" in html
    assert "“&lt;i&gt;”" in views.results([], "<i>")
    assert "nothing to fetch" in views.listing(found)
