"""Downloads from a hub on this machine: what has arrived stays, what is damaged does not, and each end has a name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import REVISION, FakeHub, fake_hub
from helpers import tiny_model
from huggingface_hub import constants

from quip_engine import hub as client
from quip_engine import transfer
from quip_engine.errors import QuipError, Stopped
from quip_engine.probe import probe
from quip_engine.transfer import Transfer, discard

NAME = "owner/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transfer, "PAUSE", 0.01)
        monkeypatch.setattr(transfer, "PIECE", 2**12)
        hub.models[NAME] = tiny_model(tmp_path)
        (hub.models[NAME] / "modeling.py").write_text("raise SystemExit")
        yield hub


def code_of(call) -> str:
    with pytest.raises(QuipError) as caught:
        call()
    return caught.value.code


def parts() -> list[Path]:
    return list(Path(constants.HF_HUB_CACHE).glob(f"*/blobs/*{transfer.SUFFIX}"))


def test_what_a_model_is_before_anything_is_fetched(hub: FakeHub) -> None:
    found = client.look(NAME)
    assert found.architecture == "LlamaForCausalLM"
    assert (found.licence, found.gated, found.refusal, found.parameters) == ("apache-2.0", False, None, 1000)
    assert list(found.files)[-1] == "config.json"
    assert "modeling.py" not in found.files
    assert found.bytes == sum((hub.models[NAME] / file).stat().st_size for file in found.files)
    assert hub.asked == []


def test_what_the_hub_refuses_and_what_we_refuse(hub: FakeHub, tmp_path: Path) -> None:
    assert code_of(lambda: client.look("owner/none")) == "HUB_NOT_FOUND"
    assert code_of(lambda: client.look("none")) == "BAD_HUB_ID"
    (hub.models[NAME] / "model.safetensors").unlink()
    (hub.models[NAME] / "pytorch_model.bin").write_bytes(b"x")
    found = client.look(NAME)
    assert found.files == {}
    assert found.refusal is not None
    assert found.refusal.code == "PICKLE_ONLY"


def test_a_search_says_what_each_model_is(hub: FakeHub) -> None:
    assert [(x.name, x.bytes, x.refusal) for x in client.search("TINY")] == [(NAME, 4000, None)]
    assert client.search("giant") == []


def test_a_download_is_a_model_in_the_cache(hub: FakeHub) -> None:
    job = Transfer(client.look(NAME))
    folder = job.run()
    assert job.arrived == job.listing.bytes
    assert job.finished == len(job.listing.files)
    assert folder == Path(constants.HF_HUB_CACHE) / "models--owner--tiny" / "snapshots" / REVISION
    assert client.cached(NAME) == folder
    assert probe(NAME, offline=True).name == NAME
    assert not (folder / "modeling.py").exists()
    hub.asked.clear()
    again = Transfer(job.listing)
    assert again.run() == folder
    assert again.arrived == job.arrived
    assert hub.asked == []


def test_stopped_at_once_and_continued_where_it_was(hub: FakeHub) -> None:
    hub.bytes_per_second = 40_000
    job, ended = Transfer(client.look(NAME)), []

    def run() -> None:
        with pytest.raises(Stopped):
            job.run()
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: job.arrived > 12_000)
    hub.stalled.set()  # the network holds the thread up; nothing may be written after stop
    job.stop()
    have = job.arrived
    assert [part.stat().st_size for part in parts()] == [have]
    hub.stalled.clear()
    thread.join(timeout=20)
    assert ended
    assert [part.stat().st_size for part in parts()] == [have]
    assert client.cached(NAME) is None

    hub.bytes_per_second = 0
    hub.asked.clear()
    rest = Transfer(job.listing)
    rest.run()
    assert ("GET", "model.safetensors", f"bytes={have}-") in hub.asked
    assert rest.arrived == job.listing.bytes
    assert probe(NAME, offline=True).name == NAME


def test_a_connection_that_breaks_is_made_anew(hub: FakeHub) -> None:
    hub.cut_after = 8192
    job = Transfer(client.look(NAME))
    job.run()
    assert sum(file == "model.safetensors" and method == "GET" for method, file, _ in hub.asked) > 3
    assert job.arrived == job.listing.bytes


def test_one_that_brings_nothing_ends_with_what_is_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = client.look(NAME)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(QuipError) as caught:
        Transfer(listing).run()
    assert caught.value.code == "DOWNLOAD_INCOMPLETE"
    assert f"0 of {len(listing.files)}" in caught.value.message


def test_a_gate_is_named(hub: FakeHub) -> None:
    hub.gated.add(NAME)
    found = client.look(NAME)
    assert found.gated
    assert code_of(lambda: Transfer(found).run()) == "HUB_GATED"


def test_damaged_bytes_are_not_kept(hub: FakeHub) -> None:
    hub.spoil = True
    assert code_of(lambda: Transfer(client.look(NAME)).run()) == "HASH_MISMATCH"
    assert parts() == []


def test_what_is_not_complete_can_be_discarded(hub: FakeHub) -> None:
    blob = Path(constants.HF_HUB_CACHE) / "models--owner--tiny" / "blobs"
    blob.mkdir(parents=True)
    (blob / f"abc{transfer.SUFFIX}").write_bytes(b"x")
    (blob / "def").write_bytes(b"y")
    discard(NAME)
    assert [path.name for path in blob.iterdir()] == ["def"]


def wait_for(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
