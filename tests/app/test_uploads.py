"""Nothing of an upload that broke off stays; whole ones stay for a day."""

import asyncio
import os

import pytest

from app.uploads import UPLOAD, Uploads, remove


def upload(uploads, path=UPLOAD):
    asyncio.run(uploads({"type": "http", "path": path}, None, None))


def test_what_an_earlier_server_left_goes(tmp_path):
    (tmp_path / "cut").write_bytes(b"a")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "file").write_bytes(b"a")
    Uploads(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_off_upload_leaves_nothing_and_a_whole_one_stays(tmp_path):
    async def gradio(scope, receive, send):
        (tmp_path / "temporary").write_bytes(b"half of it")
        (tmp_path / "whole").mkdir(exist_ok=True)
        if scope["path"] == UPLOAD:
            raise ConnectionError

    uploads = Uploads(gradio, tmp_path)
    with pytest.raises(ConnectionError):
        upload(uploads)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]
    upload(uploads, "/config")
    assert (tmp_path / "temporary").exists()


def test_an_upload_beside_another_is_left_alone(tmp_path):
    async def both():
        uploads = Uploads(None, tmp_path)

        async def gradio(scope, receive, send):
            (tmp_path / receive).write_bytes(b"half of it")
            if receive == "first":
                await uploads({"type": "http", "path": UPLOAD}, "second", None)
                assert (tmp_path / "first").exists()

        uploads.app = gradio
        await uploads({"type": "http", "path": UPLOAD}, "first", None)

    asyncio.run(both())
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_but_not_followed(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "uploads"
    outside.mkdir()
    folder.mkdir()
    (outside / "kept").write_bytes(b"a")
    (folder / "link").symlink_to(outside)
    (folder / "new").write_bytes(b"a")
    (folder / "old").write_bytes(b"a")
    os.utime(folder / "old", (1, 1))
    os.utime(folder / "link", (1, 1), follow_symlinks=False)
    remove(folder, before=2)
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert (outside / "kept").exists()
