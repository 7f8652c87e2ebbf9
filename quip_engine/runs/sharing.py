"""Sharing what a run made: exports and pushes, done here or by a process of their own.

Gigabytes take minutes, so pages start a process and read what it says:

    <home>/runs/<id>/transfer.json   kind, target, status, bytes done and in all, address or error
                     transfer.lock   held by the process for as long as it lives

A token reaches that process through its standard input; it is in no file, argument or environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

import quip_engine
from quip_engine.errors import QuipError, fail
from quip_engine.files import write_json
from quip_engine.runs.evaluations import latest_for
from quip_engine.runs.removal import checkpoint_folder
from quip_engine.runs.store import START_SECONDS, Run, is_locked

Progress = Callable[[int, int], None]
NAME = "transfer.json"
LOCK = "transfer.lock"


@dataclass(frozen=True)
class Transfer:
    """One export or push. ``status``: working, done, failed, or interrupted when its process is gone."""

    kind: str  # export or push
    target: str  # folder, or owner/name
    link: bool = False
    private: bool = True
    status: str = "working"
    done: int = 0
    total: int = 0
    address: str = ""  # where it is now
    error: dict[str, Any] | None = None
    pid: int = 0
    time: float = 0.0


def card_of(run: Run, load_from: str, home: Path | None = None) -> str:
    """The model card of a finished run, with the latest evaluation of its model if there is one."""
    from quip_engine.checkpoint import read_manifest  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.model_card import model_card  # noqa: PLC0415

    folder = finished_folder(run)
    config = json.loads((folder / "config.json").read_bytes())
    found = latest_for(folder, home)
    text = "the bundled evaluation text"
    if found and found.job.text != "bundled":
        text = Path(found.job.text).name
    figures = found.result if found else None
    return model_card(read_manifest(folder), config, _origin(run), load_from=load_from, evaluation=figures, text=text)


def finished_folder(run: Run) -> Path:
    """Raises ``MODEL_GONE``."""
    if run.status != "done" or not checkpoint_folder(run).is_dir():
        fail("MODEL_GONE", name=run.name)
    return checkpoint_folder(run)


def export_run(run: Run, target: Path, progress: Progress, *, link: bool = False, home: Path | None = None) -> int:
    """See ``export.export``."""
    from quip_engine.export import export  # noqa: PLC0415

    return export(finished_folder(run), target, card_of(run, str(target.name), home), progress, link=link)


def push_run(
    run: Run, name: str, progress: Progress, *, token: str = "", private: bool = True, home: Path | None = None
) -> str:
    """See ``export.push``."""
    from quip_engine.export import push  # noqa: PLC0415

    return push(finished_folder(run), name, card_of(run, name, home), progress, token=token, private=private)


def _origin(run: Run) -> Any:
    """What is still known of the original; it may have gone since."""
    from quip_engine.hub import fetch  # noqa: PLC0415
    from quip_engine.model_card import Origin  # noqa: PLC0415
    from quip_engine.probe.folder import licence_of  # noqa: PLC0415

    typed = Path(run.job.model).expanduser()
    hub_id = "" if typed.is_absolute() or typed.is_dir() else run.job.model
    try:
        folder = fetch(hub_id, offline=True) if hub_id else typed
    except QuipError:
        return Origin(typed.name, hub_id)
    if not folder.is_dir():
        return Origin(typed.name, hub_id)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Origin(typed.name, hub_id, size or None, licence_of(folder))


def begin(run: Run, transfer: Transfer, home: Path, token: str = "") -> None:
    """Start the process of a transfer. Raises ``BUSY`` while another of this run is at work, and ``MODEL_GONE``."""
    finished_folder(run)
    if (now := transfer_of(run)) and now.status == "working":
        fail("BUSY", name=f"{now.kind} to {now.target}", where=f" ({run.id})")
    (run.directory / NAME).unlink(missing_ok=True)
    package_parent = str(Path(quip_engine.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    with (run.directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quip_engine.runs.transfer_worker", str(home), run.id],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"transfer": asdict(transfer), "token": token}).encode())
    process.stdin.close()
    threading.Thread(target=process.wait, daemon=True).start()  # collect its exit status: no zombie
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None and not (run.directory / NAME).exists():
        time.sleep(0.02)


def transfer_of(run: Run) -> Transfer | None:
    """The latest export or push of a run as seen now."""
    alive = is_locked(run.directory / LOCK)  # asked first: the last word is written before the lock is let go
    try:
        found = Transfer(**json.loads((run.directory / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return replace(found, status="interrupted") if found.status == "working" and not alive else found


def cancel(run: Run) -> None:
    """End the transfer of a run; an export leaves nothing behind, a push nothing that can be seen."""
    found = transfer_of(run)
    if found is None or found.status != "working":
        return
    try:
        process = psutil.Process(found.pid)
        process.terminate()
        process.wait(3)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        process.kill()
    write_json(run.directory / NAME, asdict(replace(found, status="cancelled")))
