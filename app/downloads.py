"""Models that are being fetched from the hub: one list for all pages, each download in a thread of its own.

    asking -> running -> done            Cancel: paused, what has arrived stays; Resume goes on from there
                      -> failed          a server that ended: paused

The list is kept in ``downloads.json`` of the data directory, so an unfinished one is offered again after a restart.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import constants

from app.machine import free_disk
from app.state import explain
from quip_engine import hub
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.files import write_json
from quip_engine.transfer import Transfer, discard

RECENT = 8.0  # seconds that the speed is the mean of
ALIVE = ("asking", "running")


@dataclass
class Download:
    """One model. ``total`` and ``arrived`` in bytes; 0 until the hub has told."""

    name: str
    state: str = "asking"
    total: int = 0
    arrived: int = 0
    error: QuipError | None = None
    transfer: Transfer | None = None
    looks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))  # (when, bytes) while it runs

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def look(self, now: float) -> None:
        """Take in what the transfer has brought."""
        if self.transfer and self.state == "running":
            self.arrived = self.transfer.arrived
            if not self.looks or now - self.looks[-1][0] > 0.4:
                self.looks.append((now, self.arrived))
            while now - self.looks[0][0] > RECENT and len(self.looks) > 2:
                self.looks.popleft()

    @property
    def speed(self) -> float | None:
        """Bytes per second; None before there is enough to tell."""
        if self.state != "running" or len(self.looks) < 3:
            return None
        (then, before), (now, after) = self.looks[0], self.looks[-1]
        return max(0.0, after - before) / (now - then)

    @property
    def remaining(self) -> float | None:
        return (self.total - self.arrived) / self.speed if self.speed else None


class Downloads:
    """``arrived`` is called, from the download's thread, when a model is complete."""

    def __init__(self, home: Path, arrived: Callable[[], None] = lambda: None) -> None:
        self._file, self._arrived = home / "downloads.json", arrived
        self._lock = threading.RLock()
        self._all = {download.name: download for download in self._load()}

    def all(self) -> list[Download]:
        """Newest first, as they are now."""
        now = time.monotonic()
        with self._lock:
            for download in self._all.values():
                download.look(now)
            return list(self._all.values())[::-1]

    def alive(self, name: str) -> bool:
        with self._lock:
            return name in self._all and self._all[name].alive

    def start(self, name: str) -> None:
        """Fetch a model, or go on with it. One that is on its way already is left alone. Raises ``BAD_HUB_ID``."""
        hub.check_id(name)
        with self._lock:
            if self.alive(name):
                return
            old = self._all.pop(name, Download(name))
            download = self._all[name] = Download(name, total=old.total, arrived=old.arrived)
        threading.Thread(target=self._run, args=(download,), name=f"download {name}", daemon=True).start()

    def cancel(self, name: str) -> None:
        """End it now; what has arrived stays."""
        with self._lock:
            if (download := self._all.get(name)) and download.alive:
                if download.transfer:
                    download.transfer.stop()
                    download.look(time.monotonic())
                download.state = "paused"
        self._save()

    def remove(self, name: str) -> None:
        """Take it off the list, and delete what has arrived of files that are not complete."""
        with self._lock:
            download = self._all.get(name)
            if download is None or download.alive:
                return
            del self._all[name]
        if download.state != "done":
            discard(name)
        self._save()

    def _run(self, download: Download) -> None:
        try:
            listing = hub.look(download.name)
            if not listing.files and listing.refusal:
                raise listing.refusal
            _check_disk(listing, download.arrived)
            with self._lock:
                if download.state != "asking":  # cancelled while the hub was asked
                    return
                download.transfer, download.total = Transfer(listing), listing.bytes or 0
                download.state = "running"
            self._save()
            download.transfer.run()
            self._end(download, "done")
            self._arrived()
        except Stopped:
            pass  # whoever stopped it has said so
        except Exception as error:
            self._end(download, "failed", explain(error))

    def _end(self, download: Download, state: str, error: QuipError | None = None) -> None:
        with self._lock:
            if not download.alive:
                return
            download.look(time.monotonic())
            download.state, download.error = state, error
        self._save()

    def _save(self) -> None:
        with self._lock:
            rest = [
                {"name": d.name, "total": d.total, "arrived": d.arrived}
                for d in self._all.values()
                if d.state != "done"
            ]
            with contextlib.suppress(QuipError):  # a full disk: the bytes are found again without the list
                write_json(self._file, {"downloads": rest})

    def _load(self) -> list[Download]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))["downloads"]
            return [Download(d["name"], "paused", int(d["total"]), int(d["arrived"])) for d in kept]
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _check_disk(listing: hub.Listing, arrived: int) -> None:
    """Raises ``DISK_FULL`` where the rest does not fit."""
    cache = Path(constants.HF_HUB_CACHE)
    needed, free = (listing.bytes or 0) - arrived, free_disk(cache)
    if needed > free:
        fail("DISK_FULL", needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}", path=cache)
