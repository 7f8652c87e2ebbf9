"""Models from the Hugging Face hub: the local cache first, then one quick question to the hub, then the files.

Only configuration, tokenizer and safetensors files are fetched, never code or pickles. Without a network the answer
comes in about a second: the client's own retries would take half a minute, so a short question goes first. ``look``
and ``search`` tell what a model is before anything of it is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NoReturn, TypeVar, cast

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from quip_engine.errors import QuipError, fail
from quip_engine.files import sha256
from quip_engine.probe.folder import INDEX, SINGLE, refuse_other_weights, weight_files
from quip_engine.probe.headers import DTYPES
from quip_engine.probe.settings import check_config

T = TypeVar("T")
SECONDS = 3.0  # for the first answer of the hub
SHA256 = re.compile(r"[0-9a-f]{64}")  # the tag of a large file is the hash of its content
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
BESIDE_WEIGHTS = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.json|merges\.txt|chat_template\.jinja|README\.md|LICEN[SC]E.*",
)
MOST_WORDS = 100  # characters of a search
FACTS = ("config", "downloads", "gated", "safetensors", "sha", "tags")  # asked for each result of a search


@dataclass(frozen=True)
class Listing:
    """What the hub says of a model. Sizes in bytes; None is not known."""

    name: str
    revision: str
    files: dict[str, int]  # those that would be fetched, in this order; empty in the results of a search
    bytes: int | None  # of these files, or of the weights alone
    parameters: int | None
    architecture: str
    licence: str | None
    gated: bool  # it asks for a licence to be accepted first
    downloads: int | None  # of the last month
    refusal: QuipError | None  # why it cannot be quantized
    config: dict[str, Any] = field(repr=False, default_factory=dict)  # a part of its config.json


def fetch(name: str, offline: bool) -> Path:
    """Folder of the model ``name`` (owner/name) in the local cache, downloaded if it is not there yet.

    Raises ``BAD_HUB_ID``, ``HUB_OFFLINE``, ``HUB_NOT_FOUND``, ``HUB_GATED``, ``DOWNLOAD_INCOMPLETE`` and
    ``HASH_MISMATCH``, and what is wrong with the kind of its weights before anything is downloaded.
    """
    check_id(name)
    cached = _cached(name)
    if cached and (offline or _complete(cached)):
        return cached
    if offline:
        fail("HUB_OFFLINE", name=name)
    info = ask(name, lambda: huggingface_hub.model_info(name, timeout=SECONDS))
    wanted = wanted_files(name, [file.rfilename for file in info.siblings or []])
    return _download(name, info.sha, wanted)


def look(name: str) -> Listing:
    """What the model ``name`` is; nothing is fetched. Raises ``BAD_HUB_ID`` and the errors of ``ask``."""
    check_id(name)
    client = huggingface_hub.HfApi()
    info = ask(name, lambda: client.model_info(name, files_metadata=True, timeout=SECONDS))
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    try:
        names = sorted(wanted_files(name, sizes), key=lambda file: file == "config.json")  # last: then all is there
    except QuipError as error:
        return _listing(info, {}, error)
    return _listing(info, {file: sizes[file] for file in names})


def search(words: str, most: int = 10) -> list[Listing]:
    """Models that generate text and have ``words`` in their name, those fetched most first. Raises ``HUB_SILENT``."""
    client = huggingface_hub.HfApi()
    expand = cast(Any, list(FACTS))

    def question() -> list[huggingface_hub.ModelInfo]:
        found = client.list_models(
            filter="text-generation", search=words.strip()[:MOST_WORDS], sort="downloads", limit=most, expand=expand
        )
        return list(found)

    try:
        return [_listing(info, {}) for info in ask(words, question)]
    except QuipError as error:
        fail("HUB_SILENT", details=error.details)


def _listing(info: huggingface_hub.ModelInfo, files: dict[str, int], refusal: QuipError | None = None) -> Listing:
    config = dict(info.config or {})
    counted = dict(info.safetensors.parameters) if info.safetensors else {}
    weights = sum(count * DTYPES[dtype][1] // 8 for dtype, count in counted.items() if dtype in DTYPES)
    names = config.get("architectures")
    try:
        check_config(config, Path(info.id))
    except QuipError as error:
        refusal = refusal or error
    return Listing(
        name=info.id,
        revision=info.sha or "",
        files=files,
        bytes=sum(files.values()) or weights or None,
        parameters=sum(counted.values()) or None,
        architecture=str(names[0] if names else config.get("model_type", "not stated"))[:80],
        licence=next((tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")), None),
        gated=bool(info.gated),
        downloads=info.downloads,
        refusal=refusal,
        config=config,
    )


def check_id(name: str) -> None:
    """Refuse what is not owner/name; an address of the hub gets the id in it as a suggestion."""
    found = re.search(r"huggingface\.co/(?:datasets/)?([\w.\-]+/[\w.\-]+)", name)
    if found:
        fail("BAD_HUB_ID", name=name, suggestion=f" Try {found[1]}.")
    try:
        if name.count("/") != 1:
            raise HFValidationError
        validate_repo_id(name)
    except HFValidationError:
        fail("BAD_HUB_ID", name=name, suggestion="")


def ask(name: str, question: Callable[[], T]) -> T:
    """The answer of the hub to a question about ``name``, or the error that says why there is none.

    The question runs in a thread: looking up the address can take longer than any time limit of the client.
    """
    answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((question(), None))
        except Exception as error:
            answers.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=SECONDS + 1)
    except Empty:
        fail("HUB_OFFLINE", name=name, details="no answer in time")
    if error:
        explain(name, error)
    return cast(T, answer)


def wanted_files(name: str, names: Iterable[str]) -> list[str]:
    """Those of the repository's files that a model needs; refuses one without safetensors."""
    names = sorted(names)
    if SINGLE in names:
        weights = [SINGLE]
    elif INDEX in names:
        weights = [INDEX, *(file for file in names if SHARD.fullmatch(file))]
    else:
        refuse_other_weights(names, name)
    return weights + [file for file in names if BESIDE_WEIGHTS.fullmatch(file)]


def cached(name: str) -> Path | None:
    """The folder of a model that is in the local cache with all its files."""
    folder = _cached(name)
    return folder if folder and _complete(folder) else None


def _cached(name: str) -> Path | None:
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _complete(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    try:
        return bool(weight_files(folder))
    except QuipError:
        return False


def _download(name: str, revision: str | None, wanted: list[str]) -> Path:
    details = ""
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
        have = sum((folder / file).is_file() for file in wanted)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        explain(name, error)
    except (httpx2.HTTPError, OSError) as error:
        cached = _cached(name)
        have = sum((cached / file).is_file() for file in wanted) if cached else 0
        details = str(error)
    if have < len(wanted):
        fail("DOWNLOAD_INCOMPLETE", details=details, have=have, want=len(wanted), name=name)
    for file in wanted:
        _check_hash(folder / file)
    if revision:
        remember(name, revision)
    return folder


def _check_hash(file: Path) -> None:
    """Compare a file with the hash of its content, where the cache names it so. Raises ``HASH_MISMATCH``."""
    blob = file.resolve()
    if SHA256.fullmatch(blob.name) and sha256(blob) != blob.name:
        blob.unlink()  # it would be taken for whole
        fail("HASH_MISMATCH", file=file.name)


def storage(name: str) -> Path:
    """Where the cache keeps a model."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def remember(name: str, revision: str) -> None:
    """A revision is complete: from now on the cache gives it for the name alone, also without a network."""
    ref = storage(name) / "refs" / constants.DEFAULT_REVISION
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(revision, encoding="utf-8")


def explain(name: str, error: Exception) -> NoReturn:
    """Raise the coded error for an exception of the client; one that is no answer of a network is a defect."""
    if isinstance(error, GatedRepoError):
        fail("HUB_GATED", name=name)
    if isinstance(error, RepositoryNotFoundError):
        fail("HUB_NOT_FOUND", name=name)
    if isinstance(error, httpx2.TransportError | OfflineModeIsEnabled | HfHubHTTPError | OSError):
        fail("HUB_OFFLINE", details=str(error), name=name)
    raise error
