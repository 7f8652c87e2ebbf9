"""Files that are whole or not there at all.

    write to a temporary name in the same folder -> fsync -> rename over the final name -> fsync of the folder

A crash leaves the old file or the new one, and at worst a temporary file that ``remove_leftovers`` finds. Problems of
the disk come out as ``DISK_FULL`` or ``IO_ERROR``. Nothing here knows what is in a file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil

from quip_engine.errors import fail

FULL = (errno.ENOSPC, errno.EDQUOT)


def data_home() -> Path:
    """Where runs, their history and compiled kernels live: ``QUIP_STUDIO_HOME``, else ``~/.quip-studio``."""
    return Path(os.environ.get("QUIP_STUDIO_HOME") or Path.home() / ".quip-studio").expanduser().absolute()


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """Gives a temporary name; what the block leaves there becomes ``path``, in one step, when the block ends well.

    ``size``: expected bytes, for the message of ``DISK_FULL``.
    """
    with _temporary(path, size) as temporary:
        mode = temporary.stat().st_mode
        yield temporary
        _settle(temporary, mode)
        temporary.replace(path)
    with named_errors(path, size):
        sync(path.parent)


def store(folder: Path, write: Callable[[Path], object], size: int = 0) -> Path:
    """Let ``write`` make a file of ``size`` bytes at a name it is given; kept in ``folder`` under its SHA-256."""
    with _temporary(folder / "object", size) as temporary:
        mode = temporary.stat().st_mode
        write(temporary)
        _settle(temporary, mode)
        path = folder / sha256(temporary)
        temporary.replace(path)
    with named_errors(path, size):
        sync(folder)
    return path


@contextmanager
def _temporary(path: Path, size: int) -> Iterator[Path]:
    """An empty file beside ``path``; gone where the block ends badly."""
    temporary = path.with_name(f"{_leftover_stem(path)}{os.getpid()}-{secrets.token_hex(4)}")
    with named_errors(path, size):
        try:
            temporary.touch()
            yield temporary
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _settle(temporary: Path, mode: int) -> None:
    temporary.chmod(mode)  # a library may have put a private file of its own there
    sync(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (NaN is refused), two spaces of indent, UTF-8, a newline at the end."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def copy(source: Path, path: Path) -> None:
    with replacing(path, source.stat().st_size) as temporary:
        shutil.copyfile(source, temporary)


def link_or_copy(source: Path, path: Path) -> None:
    """A second name for the same bytes where the file system can, else a copy. ``path`` must not exist yet."""
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without hard links
        copy(source, path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders; it journals their names itself
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Gives a partial folder beside ``path``; it becomes ``path`` in one rename when the block ends well.

    ``path`` may exist only as an empty folder (``OUTPUT_EXISTS``).
    """
    _check_free(path)
    remove_leftovers(path)
    partial = path.with_name(f"{_leftover_stem(path)}{os.getpid()}-{secrets.token_hex(4)}")
    with named_errors(path):
        partial.mkdir(parents=True)
        try:
            yield partial
            sync(partial)
            _check_free(path)
            if path.exists():
                path.rmdir()
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(path.parent)


def existing_file(source: str) -> Path:
    """The file that a person means. Raises ``NOT_FOUND``, or ``BAD_PATH`` where that can be no path."""
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError):  # a part of the path is too long; no such ~user
        fail("BAD_PATH")
    fail("NOT_FOUND", path=source)


def check_output(out: Path, source: Path) -> None:
    """Refuse an output folder that is taken, inside the source, or cannot be made."""
    out, source = out.absolute(), source.resolve()
    try:
        out.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # a name too long, a NUL
        fail("BAD_PATH", details=str(error))
    if out.resolve() == source or source in out.resolve().parents:
        fail("OUTPUT_IN_SOURCE", path=out)
    _check_free(out)
    parent = next(p for p in out.parents if p.exists())
    if not parent.is_dir():
        fail("OUTPUT_NOT_WRITABLE", path=out, reason=f"{parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        fail("OUTPUT_NOT_WRITABLE", path=out, reason="no permission")


def remove_leftovers(path: Path) -> None:
    """Remove what dead processes left unfinished for ``path``: temporary files and partial folders."""
    stem = _leftover_stem(path)
    for leftover in path.parent.glob(f"{glob.escape(stem)}*"):
        owner = leftover.name.removeprefix(stem).partition("-")[0]
        if owner.isdecimal() and int(owner) != os.getpid() and psutil.pid_exists(int(owner)):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder so that it is whole or gone: whoever is killed here leaves what ``remove_leftovers`` finds."""
    if folder.exists():
        with named_errors(folder):
            gone = folder.with_name(f"{_leftover_stem(folder)}{os.getpid()}-{secrets.token_hex(4)}")
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    remove_leftovers(folder)


@contextmanager
def named_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what the operating system says about writing ``path`` into errors with names."""
    try:
        yield
    except OSError as error:
        disk_error(error.errno, error.strerror or str(error), path, size)


def disk_error(number: int | None, reason: str, path: Path, size: int = 0) -> NoReturn:
    """Raise the named error of an ``errno`` of the operating system."""
    if number in FULL:
        disk_full(path, size)
    fail("IO_ERROR", path=path, reason=reason)


def disk_full(path: Path, size: int) -> NoReturn:
    """Raise ``DISK_FULL`` for ``size`` bytes at ``path``."""
    fail("DISK_FULL", needed=f"{size / 1e9:.2f}", free=f"{free_bytes(path) / 1e9:.2f}", path=path.parent)


def free_bytes(path: Path) -> int:
    """Free bytes where ``path`` lies or will lie."""
    return shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free


def _leftover_stem(path: Path) -> str:
    return f".{path.name}.partial-"


def _check_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        fail("OUTPUT_EXISTS", path=path)
