"""The folder of uploads: what breaks off leaves nothing, and nothing stays for long.

Gradio writes an upload to a plain file here and moves it into a folder of its own when it is whole. So once no upload
is under way, plain files are remains of one that broke off.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD = "/gradio_api/upload"
DAY, HOUR = 24 * 3600, 3600


class Uploads:
    """ASGI middleware that cleans up behind uploads, at its start and once an hour."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app, self.folder, self._under_way = app, folder, 0
        remove(folder, before=time.time())
        threading.Thread(target=self._keep_clean, name="uploads", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != UPLOAD:
            return await self.app(scope, receive, send)
        self._under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._under_way -= 1
            if not self._under_way:
                remove(self.folder, before=float("inf"), folders=False)

    def _keep_clean(self) -> None:
        while True:
            time.sleep(HOUR)
            remove(self.folder, before=time.time() - DAY)


def remove(folder: Path, before: float, *, folders: bool = True) -> None:
    """Remove what lies in a folder and was last changed before a time (seconds of the epoch)."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # of somebody else, or gone meanwhile
            if entry.lstat().st_mtime >= before:
                continue
            if not entry.is_dir() or entry.is_symlink():
                entry.unlink()
            elif folders:
                shutil.rmtree(entry)
