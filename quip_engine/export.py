"""A finished checkpoint for others: a copy in a folder of their own, or a repository on the hub.

Only the files its manifest lists leave, checked against their SHA-256 on the way, with a model card in place of the
short one; the manifest of the copy names the new card. A folder appears whole, in one rename; on the hub everything
becomes visible with one commit at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from quip_engine import files
from quip_engine.checkpoint import MANIFEST, read_manifest
from quip_engine.errors import fail
from quip_engine.hub import check_id

CARD = "README.md"
CHUNK = 1 << 23
Progress = Callable[[int, int], None]  # bytes done, bytes in all


def export(folder: Path, target: Path, card: str, progress: Progress, *, link: bool = False) -> int:
    """Copy (or ``link``) the checkpoint in ``folder`` to ``target`` with ``card``. Returns the bytes of the copy.

    Raises ``OUTPUT_EXISTS``, ``OUTPUT_IN_SOURCE``, ``OUTPUT_NOT_WRITABLE``, ``DISK_FULL`` and ``CHECKPOINT_DAMAGED``.
    """
    files.check_output(target, folder)
    manifest = read_manifest(folder)
    listed = _listed(folder, manifest)
    total, done = sum(entry["bytes"] for entry in listed.values()), 0
    if not link and files.free_bytes(_existing(target)) < total:
        files.disk_full(target, total)
    with files.publishing(target) as partial:
        for name, entry in listed.items():
            if link:
                files.link_or_copy(folder / name, partial / name)
            else:
                _copy(folder / name, partial / name, entry["sha256"], _within(progress, done, total))
            done += entry["bytes"]
            progress(done, total)
        files.write_bytes(partial / CARD, card.encode())
        files.write_bytes(partial / MANIFEST, _manifest(manifest, card))
        return sum(path.stat().st_size for path in partial.iterdir())


def push(
    folder: Path, name: str, card: str, progress: Progress, *, token: str = "", private: bool = True, api: Any = None
) -> str:
    """Upload the checkpoint in ``folder`` to the repository ``name`` (owner/name), new or not. Returns its address.

    ``token`` empty: the one the hub's own client has stored. It is passed on, never written or shown. Raises
    ``BAD_HUB_ID``, ``NO_TOKEN``, ``PUSH_REFUSED``, ``PUSH_FAILED`` and ``CHECKPOINT_DAMAGED``.
    """
    check_id(name)
    if not (token or get_token()):
        fail("NO_TOKEN")
    manifest = read_manifest(folder)
    listed = _listed(folder, manifest)
    api = api or HfApi(token=token or None)
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True, repo_type="model"))
        if private and not api.repo_info(name, repo_type="model").private:
            fail("PUSH_REFUSED", name=name, reason="it exists already and everybody can see it")
        operations = _upload(api, folder, name, listed, progress)
        operations += [CommitOperationAdd(CARD, card.encode()), CommitOperationAdd(MANIFEST, _manifest(manifest, card))]
        api.create_commit(name, operations, commit_message="Upload by QuIP Studio", repo_type="model")
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
        _explain(name, error, token)
    return address


def _upload(
    api: Any, folder: Path, name: str, listed: dict[str, dict[str, Any]], progress: Progress
) -> list[CommitOperationAdd]:
    """Send the bytes of every file; they become visible with the commit that takes these operations."""
    total, done = sum(entry["bytes"] for entry in listed.values()), 0
    operations = []
    for file, entry in listed.items():
        progress(done, total)
        operation = CommitOperationAdd(file, str(folder / file))
        if operation.upload_info.sha256.hex() != entry["sha256"]:
            fail("CHECKPOINT_DAMAGED", file=file)
        api.preupload_lfs_files(name, [operation], repo_type="model")
        operations.append(operation)
        done += entry["bytes"]
    progress(done, total)
    return operations


def _within(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    """Progress within one file, after ``done`` bytes of others."""
    return lambda n: progress(done + n, total)


def _listed(folder: Path, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files to send, by name; what is missing, a link or of another size is damage."""
    listed = {name: entry for name, entry in sorted(manifest["files"].items()) if name not in (CARD, MANIFEST)}
    for name, entry in listed.items():
        path = folder / name
        plain = Path(name).name == name and path.is_file() and not path.is_symlink()
        if not plain or path.stat().st_size != entry["bytes"]:
            fail("CHECKPOINT_DAMAGED", file=name)
    return listed


def _manifest(manifest: dict[str, Any], card: str) -> bytes:
    """The manifest with the new card in place of the old."""
    data = card.encode()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    record = {**manifest, "files": dict(sorted({**manifest["files"], CARD: entry}.items()))}
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _copy(source: Path, path: Path, sha256: str, progress: Callable[[int], None]) -> None:
    digest, done = hashlib.sha256(), 0
    with files.replacing(path, source.stat().st_size) as temporary:
        with source.open("rb") as read, temporary.open("wb") as write:
            while chunk := read.read(CHUNK):
                digest.update(chunk)
                write.write(chunk)
                progress(done := done + len(chunk))
        if digest.hexdigest() != sha256:
            fail("CHECKPOINT_DAMAGED", file=source.name)


def _existing(path: Path) -> Path:
    """A path whose parent exists, at or above ``path``."""
    while not path.parent.exists():
        path = path.parent
    return path


def _explain(name: str, error: Exception, token: str) -> NoReturn:
    """The coded error for what the hub or the way there said. The token is blotted out of any text."""
    text = str(error).replace(token, "…") if token else str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        fail("PUSH_REFUSED", details=text, name=name, reason="the token may not write there")
    if status is not None:
        fail("PUSH_FAILED", details=text, name=name, reason=f"the hub answered {status}")
    offline = isinstance(error, OfflineModeIsEnabled)
    reason = "this program was started offline" if offline else "there is no connection to the hub"
    fail("PUSH_FAILED", details=text, name=name, reason=reason)
