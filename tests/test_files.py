import errno
import json
import os
from pathlib import Path

import pytest

from quip_engine import files
from quip_engine.errors import QuipError

DEAD_PID = 2**22 + 1  # above the largest process id of Linux


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    files.write_bytes(path, b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def failing(number: int):
    def call(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_write_replaces_and_leaves_nothing_else(old: Path) -> None:
    files.write_json(old, {"é": [1, 2.5]})
    assert json.loads(old.read_bytes()) == {"é": [1, 2.5]}
    assert names(old.parent) == ["state.json"]


def test_not_a_number_is_refused_and_the_old_file_stays(old: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(old, {"loss": float("nan")})
    assert old.read_bytes() == b"old"


CODES = [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "IO_ERROR")]


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(old: Path, monkeypatch, step: str, number: int, code: str) -> None:
    target = {"write": (Path, "write_bytes"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[step]
    monkeypatch.setattr(*target, failing(number))
    with pytest.raises(QuipError) as caught:
        files.write_bytes(old, b"new")
    assert caught.value.code == code
    assert old.read_bytes() == b"old"
    assert names(old.parent) == ["state.json"]


def test_the_order_is_write_sync_rename_sync(old: Path, monkeypatch) -> None:
    calls = []
    sync, replace = files.sync, Path.replace
    monkeypatch.setattr(files, "sync", lambda path: (calls.append(("sync", path.is_dir())), sync(path))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append(("rename", a.read_bytes())), replace(a, b))[1])
    files.write_bytes(old, b"new")
    assert calls == [("sync", False), ("rename", b"new"), ("sync", True)]


def test_files_are_as_readable_as_any_other(old: Path) -> None:
    plain = old.with_name("plain")
    plain.write_bytes(b"")
    assert old.stat().st_mode == plain.stat().st_mode


def test_copy_and_link(old: Path) -> None:
    for name, make in {"copy": files.copy, "link": files.link_or_copy}.items():
        made = old.with_name(name)
        make(old, made)
        assert made.read_bytes() == b"old"
    assert old.samefile(old.with_name("link"))


def test_link_falls_back_to_a_copy(old: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    files.link_or_copy(old, made := old.with_name("copy"))
    assert made.read_bytes() == b"old"
    assert not old.samefile(made)


def test_publishing_appears_in_one_step(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with files.publishing(out) as partial:
        (partial / "a").write_text("a")
        assert not out.exists()
    assert names(out) == ["a"]
    assert names(out.parent) == ["out"]


def test_publishing_over_an_empty_folder_only(tmp_path: Path) -> None:
    with files.publishing(tmp_path / "empty") as partial:
        (tmp_path / "empty").mkdir()
        (partial / "a").write_text("a")
    assert (tmp_path / "empty" / "a").exists()
    with pytest.raises(QuipError, match="not empty") as caught, files.publishing(tmp_path / "empty"):
        pytest.fail("must not begin")
    assert caught.value.code == "OUTPUT_EXISTS"


def test_publishing_that_fails_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(RuntimeError), files.publishing(tmp_path / "out") as partial:
        (partial / "a").write_text("a")
        raise RuntimeError
    monkeypatch.setattr(Path, "rename", failing(errno.EIO))
    with pytest.raises(QuipError, match="cannot be written"), files.publishing(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_leftovers_of_the_dead_go_those_of_the_living_stay(tmp_path: Path) -> None:
    out = tmp_path / "o[u]t"
    dead, living = (tmp_path / f".{out.name}.partial-{pid}-00" for pid in (DEAD_PID, os.getppid()))
    other = tmp_path / f".out.partial-{DEAD_PID}-00"
    for folder in (dead, living, other):
        folder.mkdir()
        (folder / "shard").touch()
    (tmp_path / f".{out.name}.partial-{DEAD_PID}-01").touch()
    files.remove_leftovers(out)
    assert names(tmp_path) == sorted([living.name, other.name])


def test_sha256_of_a_known_text(old: Path) -> None:
    files.write_bytes(old, b"abc")
    assert files.sha256(old) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b"])
def test_an_output_that_no_disk_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(QuipError) as caught:
        files.check_output(tmp_path / name, tmp_path / "model")
    assert caught.value.code == "BAD_PATH"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("nowhere.txt", "NOT_FOUND"),
        ("a\0b", "NOT_FOUND"),
        ("/" + "a" * 5000, "BAD_PATH"),
        ("~nobody-here/x", "BAD_PATH"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_words(source, code):
    with pytest.raises(QuipError) as caught:
        files.existing_file(source)
    assert caught.value.code == code


def test_a_folder_is_discarded_in_one_step(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a").touch()
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # killed after the rename
        files.discard(folder)
    assert not folder.exists() and len(names(tmp_path)) == 1
    files.discard(folder)
    assert names(tmp_path) == []
