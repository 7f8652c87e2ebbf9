"""Exports: the listed files, a card that says only what is known, and a hub that is never told too much."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from quip_engine import export
from quip_engine.checkpoint import MANIFEST, read_manifest, verify
from quip_engine.errors import QuipError
from quip_engine.files import sha256, write_json
from quip_engine.model_card import Origin, model_card

TOKEN = "hf_secretsecretsecret"
CONFIG = {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling_quip.QuipModel"}}
FIGURES = {"perplexity": 12.345, "perplexity_error": 0.08, "original_perplexity": 11.0, "mean_kl": 0.0612}
EVALUATION = {"tokens": 510, "windows": 2, "seqlen": 256, "figures": {**FIGURES, "top1_agreement": None}}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as far as its manifest is concerned."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "model-00001-of-00001.safetensors").write_bytes(b"\x01" * 4000)
    (path / "README.md").write_text("short")
    (path / "notes of mine.txt").write_text("not listed")
    write_json(path / "config.json", CONFIG)
    listed = ["model-00001-of-00001.safetensors", "README.md", "config.json"]
    files = {name: {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)} for name in listed}
    recipe = {
        slot: {"name": name} for slot, name in (("transform", "hadamard"), ("codebook", "e8p"), ("rounding", "ldlq"))
    }
    manifest = {"model": "tiny", "method": "quip#", "bits": 2, "bits_per_weight": 2.0312, "seed": 7, "recipe": recipe}
    manifest |= {"calibration": {"source": "bundled", "samples": 8, "seqlen": 16, "windows": [8, 16]}}
    manifest |= {"layers": [{"rel_proxy": 0.01}, {"rel_proxy": 0.03}], "skipped": {"model.x": "why"}}
    write_json(path / MANIFEST, {**manifest, "versions": {"torch": "2.13"}, "files": files})
    return path


def card(folder, **changes):
    origin = changes.pop("origin", Origin("tiny"))
    return model_card(read_manifest(folder), CONFIG, origin, load_from="owner/tiny-2bit", **changes)


def test_a_card_states_what_was_measured_and_how(folder):
    text = card(
        folder, origin=Origin("tiny", "owner/tiny", 32_000, "apache-2.0"), evaluation=EVALUATION, text="wiki.txt"
    )
    head = text.split("---")[1]
    assert 'base_model: "owner/tiny"' in head and "license: apache-2.0" in head and '- "2-bit"' in head
    for said in (
        *("# tiny, 2 bits per weight", "2.031 bits per weight", "arXiv 2402.04396", "2.000e-02", "12.345 ± 0.080"),
        *("| Perplexity of the original | 11.000 |", "0.0612", "510 tokens of wiki.txt", "2 windows of 256 tokens"),
        *(
            "`hadamard` × `e8p` × `ldlq`",
            "8 × 16 tokens",
            "| Seed | 7 |",
            "torch 2.13",
            "apache-2.0 |",
            "1 of 3 layers",
        ),
        'AutoModelForCausalLM.from_pretrained("owner/tiny-2bit")',
    ):
        assert said in text
    assert "Same most likely" not in text


def test_a_card_claims_nothing_that_is_not_known(folder):
    text = card(folder)
    assert "Perplexity has not been measured." in text
    assert "license:" not in text and "base_model" not in text and "the original" not in text.split("## How")[0]
    assert "not stated" in text


def test_names_of_strangers_are_text(folder):
    text = card(folder, origin=Origin("a|b<script>\n# x", licence="see LICENSE"))
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\n# x" not in text and "license: see" not in text


@pytest.mark.parametrize("link", [False, True])
def test_an_export_is_the_listed_files_with_a_new_card(folder, tmp_path, link):
    seen, target = [], tmp_path / "a" / "copy"
    size = export.export(folder, target, "# new card\n", lambda *at: seen.append(at), link=link)
    verify(target)
    assert sorted(p.name for p in target.iterdir()) == sorted([*read_manifest(folder)["files"], MANIFEST])
    assert (target / "README.md").read_text() == "# new card\n"
    assert (folder / "README.md").read_text() == "short"
    assert size == sum(p.stat().st_size for p in target.iterdir())
    assert seen[-1][0] == seen[-1][1]
    assert (target / "config.json").samefile(folder / "config.json") == link


def test_an_export_refuses_taken_folders_and_damage(folder, tmp_path):
    with pytest.raises(QuipError) as caught:
        export.export(folder, folder / "inside", "", lambda *_: None)
    assert caught.value.code == "OUTPUT_IN_SOURCE"
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"\x02" * 4000)
    with pytest.raises(QuipError) as caught:
        export.export(folder, tmp_path / "copy", "", lambda *_: None)
    assert caught.value.code == "CHECKPOINT_DAMAGED"
    assert not list(tmp_path.glob("*copy*"))


class FakeHub:
    """What of HfApi is used."""

    def __init__(self, private=True, refuse=None):
        self.private, self.refuse, self.sent, self.commits = private, refuse, [], []

    def create_repo(self, name, *, private, exist_ok, repo_type):
        if self.refuse:
            raise self.refuse
        assert (exist_ok, repo_type) == (True, "model")
        self.asked_private = private
        return f"https://huggingface.co/{name}"

    def repo_info(self, _name, *, repo_type):
        return SimpleNamespace(private=self.private)

    def preupload_lfs_files(self, _name, operations, *, repo_type):
        self.sent += [operation.path_in_repo for operation in operations]

    def create_commit(self, name, operations, *, commit_message, repo_type):
        self.commits.append((name, {op.path_in_repo: op for op in operations}))


def push(folder, hub, **changes):
    return export.push(folder, "owner/tiny", "# card", lambda *_: None, **{"token": TOKEN, "api": hub, **changes})


def test_a_push_is_private_and_one_commit(folder):
    hub = FakeHub()
    assert push(folder, hub) == "https://huggingface.co/owner/tiny"
    assert hub.asked_private is True
    ((name, files),) = hub.commits
    assert name == "owner/tiny"
    assert sorted(files) == ["README.md", "config.json", "model-00001-of-00001.safetensors", MANIFEST]
    assert files["README.md"].path_or_fileobj == b"# card"
    assert "README.md" in json.loads(files[MANIFEST].path_or_fileobj)["files"]


def refused(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"no: Authorization: Bearer {TOKEN}")
    error.response = response
    return error


@pytest.mark.parametrize(
    ("hub", "code"),
    [
        (FakeHub(refuse=refused(403)), "PUSH_REFUSED"),
        (FakeHub(refuse=refused(500)), "PUSH_FAILED"),
        (FakeHub(refuse=ConnectionError("down")), "PUSH_FAILED"),
        (FakeHub(private=False), "PUSH_REFUSED"),
    ],
)
def test_refusals_have_names_and_no_token(folder, hub, code):
    with pytest.raises(QuipError) as caught:
        push(folder, hub)
    assert caught.value.code == code
    assert TOKEN not in str(vars(caught.value))
    assert hub.commits == []


def test_a_push_needs_a_token_and_a_name(folder, monkeypatch):
    monkeypatch.setattr(export, "get_token", lambda: None)
    for changes, code in (({"token": ""}, "NO_TOKEN"),):
        with pytest.raises(QuipError) as caught:
            push(folder, FakeHub(), **changes)
        assert caught.value.code == code
    with pytest.raises(QuipError) as caught:
        export.push(folder, "no slash", "", lambda *_: None, token=TOKEN, api=FakeHub())
    assert caught.value.code == "BAD_HUB_ID"


def test_a_damaged_checkpoint_is_not_pushed(folder):
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"\x02" * 4000)
    hub = FakeHub()
    with pytest.raises(QuipError) as caught:
        push(folder, hub)
    assert caught.value.code == "CHECKPOINT_DAMAGED"
    assert hub.commits == []
