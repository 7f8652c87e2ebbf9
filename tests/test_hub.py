"""Models of the hub, without a network: the cache, what is fetched, and a named error for all that goes wrong."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub
import pytest
import torch
from helpers import tiny_model
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from packed_models import packed
from published_folders import quip_sharp_folder

from quip_engine import hub
from quip_engine.errors import QuipError
from quip_engine.loading import load_model
from quip_engine.probe import probe

NAME = "owner/tiny"
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""

    def refuse(*args: object, **settings: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def online(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with one model. ``files`` are the names it lists, ``arriving`` those that a download brings."""
    source = tiny_model(tmp_path)
    here = SimpleNamespace(files=[*FILES, "pytorch_model.bin", "modeling.py"], arriving=None, asked=[])

    def info(name: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=file) for file in here.files])

    def download(name: str, **settings: object) -> str:
        if settings.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        here.asked = settings["allow_patterns"]
        folder = tmp_path / "snapshot"
        folder.mkdir()
        for file in here.asked if here.arriving is None else here.arriving:
            shutil.copy(source / file, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return here


def code_of(call) -> str:
    with pytest.raises(QuipError) as caught:
        call()
    return caught.value.code


def test_only_what_a_model_needs_is_fetched(online: SimpleNamespace) -> None:
    assert probe(NAME).name == NAME
    assert sorted(online.asked) == FILES
    assert (hub.storage(NAME) / "refs" / "main").read_text() == "abc"  # found by its name without a network


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "consolidated.safetensors", "onnx/model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["model.safetensors", "README.md", "LICENSE", "x.py", "../y.json"],
            ["model.safetensors", "LICENSE", "README.md"],
        ),
    ],
)
def test_wanted_files(names: list[str], expected: list[str]) -> None:
    assert hub.wanted_files(NAME, names) == expected


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (["config.json", "pytorch_model.bin"], "PICKLE_ONLY"),
        (["model.Q4.gguf"], "WRONG_FORMAT"),
        (["adapter_config.json", "adapter_model.safetensors"], "WRONG_FORMAT"),
        (["README.md"], "NO_WEIGHTS"),
    ],
)
def test_other_weights_are_refused_before_they_are_fetched(
    online: SimpleNamespace, files: list[str], code: str
) -> None:
    online.files = files
    assert code_of(lambda: hub.fetch(NAME, offline=False)) == code
    assert online.asked == []


def test_a_download_that_was_cut(online: SimpleNamespace) -> None:
    online.arriving = FILES[:2]
    assert code_of(lambda: hub.fetch(NAME, offline=False)) == "DOWNLOAD_INCOMPLETE"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GatedRepoError("gated", response=response(403)), "HUB_GATED"),
        (RepositoryNotFoundError("none", response=response(404)), "HUB_NOT_FOUND"),
        (HfHubHTTPError("busy", response=response(503)), "HUB_OFFLINE"),
        (httpx2.ConnectError("no address"), "HUB_OFFLINE"),
        (httpx2.ReadTimeout("slow"), "HUB_OFFLINE"),
        (OfflineModeIsEnabled("offline"), "HUB_OFFLINE"),
    ],
)
def test_what_the_hub_answers(
    online: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def answer(name: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "model_info", answer)
    assert code_of(lambda: hub.fetch(NAME, offline=False)) == code


def test_a_gate_may_stand_before_the_files_only(online: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **settings: object) -> str:
        if settings.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        raise GatedRepoError("gated", response=response(403))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert code_of(lambda: hub.fetch(NAME, offline=False)) == "HUB_GATED"


def test_a_defect_is_not_called_a_network_problem() -> None:
    def wrong() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hub.ask(NAME, wrong)


def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", -0.9)
    assert code_of(lambda: hub.ask(NAME, lambda: time.sleep(1))) == "HUB_OFFLINE"


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_answer_is_quick(cache: Path, offline: bool) -> None:
    started = time.perf_counter()
    assert code_of(lambda: probe(NAME, offline=offline)) == "HUB_OFFLINE"
    assert time.perf_counter() - started < 2  # 0.03 measured; the client's own tries take 23


def fill(cache: Path, source: Path, files: list[str]) -> None:
    """Put files into the cache as a download does."""
    folder = cache / "models--owner--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for file in files:
        shutil.copy(source / file, folder / "snapshots" / "abc")


@pytest.mark.parametrize("offline", [False, True])
def test_a_cached_model_needs_no_network(cache: Path, tmp_path: Path, offline: bool) -> None:
    fill(cache, tiny_model(tmp_path), FILES)
    facts = probe(NAME, offline=offline)
    assert facts.name == NAME
    assert Path(facts.path).is_relative_to(cache)


@pytest.mark.parametrize("kind", ["ours", "published", "original"])
def test_a_cached_model_loads_by_its_name(cache: Path, tmp_path: Path, kind: str) -> None:
    source = {
        "ours": lambda: packed(tmp_path)[0],
        "published": lambda: quip_sharp_folder(tmp_path / "published")[0],
        "original": lambda: tiny_model(tmp_path),
    }[kind]()
    fill(cache, source, [path.name for path in source.iterdir()])
    model, _ = load_model(NAME, torch.device("cpu"))
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_a_half_cached_model_says_what_is_missing(cache: Path, tmp_path: Path) -> None:
    fill(cache, tiny_model(tmp_path), ["config.json", "tokenizer.json"])
    assert code_of(lambda: probe(NAME, offline=True)) == "NO_WEIGHTS"
    assert code_of(lambda: probe(NAME)) == "HUB_OFFLINE"
