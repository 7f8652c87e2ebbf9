"""The files of a hub model into the local cache, so that nothing that has arrived is ever fetched twice.

    blobs/ETAG.quip.incomplete  --all bytes, right hash-->  blobs/ETAG  --linked-->  snapshots/REVISION/FILE

The client of the hub throws away what has arrived of a file when its download is cut. Here it stays: the next transfer
asks for the rest (HTTP Range) and checks the hash of the whole. The cache gives the model by its name when all files
are there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

import httpx2
from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from quip_engine.errors import Stopped, fail
from quip_engine.files import named_errors
from quip_engine.hub import SHA256, Listing, explain, remember, storage

PIECE = 2**16  # bytes that are written at a time: what a cut may lose
TRIES = 3  # connections in a row that bring nothing
PAUSE = 1.0  # seconds between them
SUFFIX = ".quip.incomplete"


class Transfer:
    """One download. ``run`` is for a thread of its own; ``stop`` ends it from any other."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.arrived = 0  # bytes of the files so far, those of earlier transfers included
        self.finished = 0  # files
        self._stopped, self._lock = Event(), Lock()

    def stop(self) -> None:
        """From now on nothing is written, even where the network holds the other thread up."""
        with self._lock:
            self._stopped.set()

    def run(self) -> Path:
        """Fetch what is missing; the folder of the model. Raises ``Stopped``, ``DOWNLOAD_INCOMPLETE``, ``HUB_GATED``,
        ``HUB_NOT_FOUND``, ``HASH_MISMATCH``, ``DISK_FULL`` and ``IO_ERROR``.
        """
        name, folder = self.listing.name, Path()
        with named_errors(storage(name), self.listing.bytes or 0), self._named_errors():
            for file in self.listing.files:
                folder = self._file(file).parent
                self.finished += 1
            remember(name, self.listing.revision)
        return folder

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        name, want = self.listing.name, len(self.listing.files)
        try:
            yield
        except (GatedRepoError, RepositoryNotFoundError) as error:
            explain(name, error)
        except (httpx2.HTTPError, HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled) as error:
            fail("DOWNLOAD_INCOMPLETE", details=str(error), have=self.finished, want=want, name=name)

    def _file(self, file: str) -> Path:
        """Path of a file in the cache, fetched if need be."""
        name, revision = self.listing.name, self.listing.revision
        here = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(here, str):
            self._count(Path(here).stat().st_size)
            return Path(here)
        url = hf_hub_url(name, file, revision=revision)
        about = get_hf_file_metadata(url)
        blob = storage(name) / "blobs" / _tag(about)
        if blob.is_file():
            self._count(blob.stat().st_size)
        else:
            blob.parent.mkdir(parents=True, exist_ok=True)
            part = blob.with_name(blob.name + SUFFIX)
            self._complete(part, url, about.size or 0)
            self._check(part, file)
            part.replace(blob)
        return Path(hf_hub_download(name, file, revision=revision))

    def _complete(self, part: Path, url: str, size: int) -> None:
        """Append to ``part`` until it has ``size`` bytes. A connection that breaks is made anew."""
        with part.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            self._count(file.tell())
            tries = 0
            while (have := file.tell()) < size:
                try:
                    self._append(file, url)
                except httpx2.TransportError:
                    tries = tries + 1 if file.tell() == have else 0
                    if tries == TRIES:
                        raise
                    if self._stopped.wait(PAUSE):
                        raise Stopped from None

    def _append(self, file: BinaryIO, url: str) -> None:
        headers = build_hf_headers() | {"Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"}
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            if response.status_code == httpx2.codes.OK:  # a server that knows no ranges sends all
                self._count(-file.tell())
                file.truncate(0)
            for piece in response.iter_bytes(PIECE):
                with self._lock:
                    if self._stopped.is_set():
                        raise Stopped
                    file.write(piece)
                    file.flush()
                    self.arrived += len(piece)

    def _count(self, size: int) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise Stopped
            self.arrived += size

    def _check(self, part: Path, file: str) -> None:
        tag = part.name.removesuffix(SUFFIX)
        if not SHA256.fullmatch(tag):
            return
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != tag:
            part.unlink()
            fail("HASH_MISMATCH", file=file)


def discard(name: str) -> None:
    """Delete what has arrived of files that are not complete."""
    for part in (storage(name) / "blobs").glob(f"*{SUFFIX}"):
        part.unlink(missing_ok=True)


def _tag(about: HfFileMetadata) -> str:
    """Name of the file's content in the cache. What a server says may not lead out of the folder."""
    tag = about.etag or ""
    if not re.fullmatch(r"[\w\-]+", tag):
        raise httpx2.ProtocolError(f"no usable ETag: {tag[:80]!r}")
    return tag
