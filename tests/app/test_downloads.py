"""Downloads as the pages see them: one list, cancelled at once, resumed, kept over a restart, wrong ones explained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub
from helpers import tiny_model
from huggingface_hub import constants

from app import library_views as views
from app.downloads import Download, Downloads
from quip_engine.errors import QuipError

NAME = "owner/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.models[NAME] = tiny_model(tmp_path)
        (tmp_path / "home").mkdir()
        yield hub


def wait_for(downloads: Downloads, state: str, seconds: float = 30.0) -> Download:
    end = time.monotonic() + seconds
    while downloads.all()[0].state != state:
        assert time.monotonic() < end, downloads.all()
        time.sleep(0.01)
    return downloads.all()[0]


def test_a_download_that_arrives(hub: FakeHub, home: Path) -> None:
    told = []
    downloads = Downloads(home, lambda: told.append(True))
    downloads.start(NAME)
    done = wait_for(downloads, "done")
    assert done.arrived == done.total > 0
    assert views.told(done).startswith("Done · ")
    while not told:
        time.sleep(0.01)
    downloads.remove(NAME)
    assert downloads.all() == []


def test_cancelled_resumed_and_offered_again_after_a_restart(hub: FakeHub, home: Path) -> None:
    hub.bytes_per_second = 40_000
    downloads = Downloads(home)
    downloads.start(NAME)
    wait_for(downloads, "running")
    while downloads.all()[0].arrived == 0:
        time.sleep(0.01)
    hub.stalled.set()
    downloads.start(NAME)  # a second visitor: the same download
    assert len(downloads.all()) == 1
    started = time.monotonic()
    downloads.cancel(NAME)
    assert time.monotonic() - started < 1.0
    (cut,) = downloads.all()
    assert cut.state == "paused"
    assert views.told(cut).startswith("Stopped · ")

    (again,) = Downloads(home).all()  # the server was restarted
    assert (again.name, again.state, again.arrived, again.total) == (NAME, "paused", cut.arrived, cut.total)
    hub.bytes_per_second = 0
    hub.stalled.clear()
    downloads.start(NAME)
    assert wait_for(downloads, "done").arrived == cut.total


def test_what_the_hub_refuses_stays_on_the_list(hub: FakeHub, home: Path) -> None:
    downloads = Downloads(home)
    downloads.start("owner/none")
    error = wait_for(downloads, "failed").error
    assert error is not None
    assert error.code == "HUB_NOT_FOUND"
    html = views.downloads(downloads.all())
    assert "HUB_NOT_FOUND" in html
    assert 'data-action="get:owner/none"' in html
    downloads.remove("owner/none")
    assert Downloads(home).all() == []


def test_no_room_is_told_before_the_first_byte(hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.downloads.free_disk", lambda path: 10)
    downloads = Downloads(home)
    downloads.start(NAME)
    error = wait_for(downloads, "failed").error
    assert error is not None
    assert error.code == "DISK_FULL"
    assert hub.asked == []


@pytest.mark.parametrize("name", ["tiny", "../../etc/passwd", "a b/c", "<b>/x"])
def test_a_name_that_is_none_is_refused(home: Path, name: str) -> None:
    with pytest.raises(QuipError) as caught:
        Downloads(home).start(name)
    assert caught.value.code == "BAD_HUB_ID"


def test_speed_and_time_left() -> None:
    item = Download("a/b", "running", total=1000, arrived=500)
    assert views.told(item).endswith("estimating…")
    item.looks.extend([(0.0, 0), (1.0, 100), (2.0, 200)])
    assert item.speed == 100
    assert item.remaining == 5
    item.state = "paused"
    assert item.speed is None


def test_a_damaged_list_is_empty(home: Path) -> None:
    (home / "downloads.json").write_text('{"downloads": [{"name": 1}]}')
    assert Downloads(home).all() == []
