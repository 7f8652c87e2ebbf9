"""Deleting runs: the row, the run's directory, and the checkpoint only when asked, and only if this run made it.

A checkpoint belongs to a run when its manifest says so (model, method, bits, seed, calibration and the measured bits
per weight are those of the run) and no later run wrote to the same folder. Only the files that manifest lists are
removed, so whatever a person has put beside them stays.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quip_engine.checkpoint import MANIFEST, read_manifest
from quip_engine.errors import QuipError, fail
from quip_engine.files import named_errors
from quip_engine.runs.client import starting
from quip_engine.runs.store import Run, Store, is_locked


@dataclass(frozen=True)
class Footprint:
    """What a run takes on the disk, in bytes."""

    directory: int  # log and unfinished work
    checkpoint: int | None  # None: there is none that this run made
    folder: Path  # where the checkpoint is, was or would be
    kept: str = ""  # why there is none to delete


def checkpoint_folder(run: Run) -> Path:
    """Where a finished run left its model."""
    return Path((run.result or {}).get("out") or run.job.out)


def footprint(run: Run, home: Path | None = None) -> Footprint:
    """Sizes, before anybody is asked whether to delete."""
    own = sum(path.stat().st_size for path in run.directory.rglob("*") if path.is_file() and not path.is_symlink())
    folder = checkpoint_folder(run)
    if kept := _not_ours(run, folder, Store(home)):
        return Footprint(own, None, folder, kept)
    return Footprint(own, sum(path.stat().st_size for path in _files(folder)), folder)


def delete(run_id: str, home: Path | None = None, *, checkpoint: bool = False) -> Footprint:
    """Remove a run, with ``checkpoint`` the model it made, too. Returns what was freed.

    Raises ``BUSY`` while it works and ``NOT_YOURS`` where the folder cannot be shown to be this run's; then nothing
    is removed.
    """
    store = Store(home)
    with starting(store):
        run = store.get(run_id)
        if run.alive or is_locked(run.directory / "transfer.lock"):
            fail("BUSY", name=run.name, where=f" ({run.id})")
        size = footprint(run, store.home)
        if checkpoint and size.kept:
            fail("NOT_YOURS", path=size.folder, reason=size.kept)
        if checkpoint:
            _remove_files(size.folder)
        _remove_directory(run)
        store.forget(run.id)
    return size if checkpoint else Footprint(size.directory, None, size.folder, "it was not asked for")


def _not_ours(run: Run, folder: Path, store: Store) -> str:
    """Why a folder is not this run's to delete; empty where it is."""
    if run.status != "done" or not run.result:
        return "the run has not made a model"
    if not folder.is_dir() or folder.is_symlink():
        return "it is gone"
    try:
        manifest = read_manifest(folder)
    except QuipError:
        return f"it has no readable {MANIFEST}"
    if {key: manifest.get(key) for key in _identity(run)} != _identity(run) or not _same_text(run, manifest):
        return f"its {MANIFEST} speaks of another run"
    later = [r for r in store.list() if r.id != run.id and r.result and checkpoint_folder(r) == folder]
    newest = max([run, *later], key=lambda r: r.turn)
    return "" if newest.id == run.id else f"{newest.id} wrote it anew"


def _identity(run: Run) -> dict[str, Any]:
    recipe, result = run.job.recipe, run.result or {}
    made = {"method": recipe.method, "bits": recipe.bits, "seed": run.job.seed}
    return {**made, "bits_per_weight": result.get("bits_per_weight")}


def _same_text(run: Run, manifest: dict[str, Any]) -> bool:
    told, asked = manifest.get("calibration") or {}, run.job.calibration
    return (told.get("samples"), told.get("seqlen")) == (asked.samples, asked.seqlen)


def _files(folder: Path) -> list[Path]:
    """The files a manifest lists, and itself: plain files of this folder, nothing else."""
    names = [*read_manifest(folder)["files"], MANIFEST]
    found = [folder / name for name in names if Path(name).name == name]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _remove_files(folder: Path) -> None:
    """The manifest goes last: a removal that is cut off can be repeated."""
    with named_errors(folder):
        for path in _files(folder):
            path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _remove_directory(run: Run) -> None:
    try:
        with FileLock(run.directory / "worker.lock", timeout=0), named_errors(run.directory):
            for path in run.directory.iterdir():
                if path.name != "worker.lock":
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except Timeout:
        fail("BUSY", name=run.name, where=f" ({run.id})")
    with named_errors(run.directory):
        shutil.rmtree(run.directory)
