"""What a run keeps on disk while it works, so that a killed run goes on after its last finished block.

    CURRENT            two lines: the SHA-256 of the newest generation, and of the one before
    objects/SHA-256    a generation, a record (JSON) or tensors (safetensors), named by its bytes
    writer.lock        held by whoever works here, for as long as it lives

A generation names everything that is kept: entry -> record and tensors. A commit writes new objects, then the
generation that names them, then CURRENT by one rename: before it the old state counts, after it the new one. Every
object is compared with its name when a workspace is opened. Where one of the newest generation is damaged the one
before counts, and the work between them is done again; where that is damaged, too, the run ends with
``CHECKPOINT_DAMAGED``. Nothing that no generation names is ever read, and it goes with the next commit.

Besides blocks any stage may keep what it needs to go on, under a name of its own (``keep``, ``kept``):

| entry               | holds                                                                           |
|---------------------|---------------------------------------------------------------------------------|
| identity            | what the run was started from; a resume must match it field by field             |
| block-00003         | packed codes and small tensors of a finished block, and what its layers reported  |
| activations-00004   | calibration hidden states at the input of block 4                                 |
| states-00003        | hidden states at the input of block 3, while sensitivities are measured           |
| gradient            | how far that is on its way back, and the gradient there                           |
| sensitivity-00003   | what errors of its layers cost, by token and by output                            |
| sensitivity         | what whole layers are worth                                                       |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.checkpoint import save_tensors, tensor_bytes
from quip_engine.errors import fail
from quip_engine.files import discard, named_errors, remove_leftovers, sha256, store, write_bytes
from quip_engine.identity import differences
from quip_engine.overflow import History

GENERATIONS = 2  # kept
SENSITIVITY, STATES, GRADIENT = "sensitivity", "states", "gradient"
Entry = dict[str, Any]  # record and tensors (or None): names of objects; bytes: of the tensors
Generation = dict[str, Entry]


@dataclass(frozen=True)
class Kept:
    """An entry: its record, and the safetensors file of its tensors, if it has any."""

    record: dict[str, Any]
    path: Path | None
    bytes: int

    def tensors(self) -> dict[str, Tensor]:
        """Raises ``CHECKPOINT_DAMAGED`` for bytes that changed since the workspace was opened."""
        if self.path is None:
            return {}
        if not _whole(self.path):
            fail("CHECKPOINT_DAMAGED", file=self.path.name)
        return load_file(self.path)


@dataclass(frozen=True)
class FinishedBlock:
    """One committed block: its shard, and what its layers reported."""

    path: Path  # named by its SHA-256
    bytes: int
    seconds: float
    layers: list[dict[str, Any]]  # LayerQuantized records
    skipped: dict[str, str]  # module path -> reason
    formats: dict[str, Any]  # module path -> LayerFormat record
    fallbacks: list[str]  # module paths of layers that were done in another way than asked
    overflow: History = field(default_factory=dict)  # of calibration windows, from the embeddings to this block


class Workspace:
    """The working files of one run. ``with`` opens it for one writer: raises ``BUSY`` and ``CHECKPOINT_DAMAGED``."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.objects = directory, directory / "objects"
        self.fell_back = ""  # the damaged object, where the newest generation could not be used
        self._lock = FileLock(directory / "writer.lock", timeout=0.5)
        self._generations: list[str] = []  # the newest first
        self._entries: Generation = {}

    def __enter__(self) -> Workspace:
        self.objects.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            fail("BUSY", name=self.directory, where="")
        try:
            remove_leftovers(self._current)
            self._open()
            self._sweep()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def claim(self, identity: dict[str, Any]) -> None:
        """Record what this run is made from, or refuse to go on with something else (``RESUME_MISMATCH``)."""
        before = self.kept("identity")
        if before is None:
            self.keep("identity", record=identity)
        elif changed := differences(before.record, identity):
            fail("RESUME_MISMATCH", fields=", ".join(changed))

    def keep(
        self,
        name: str,
        tensors: Mapping[str, Tensor] | None = None,
        record: dict[str, Any] | None = None,
        *,
        instead_of: str = "",
    ) -> Kept:
        """Keep tensors and a record under a name, in the place of what it had; on the disk when this returns.

        ``instead_of``: an entry that goes in the same step.
        """
        rest = {other: entry for other, entry in self._entries.items() if other != instead_of}
        self._commit({**rest, name: self._entry(tensors, record)})
        return self._kept(name)

    def kept(self, name: str) -> Kept | None:
        """What ``keep`` was given under this name, in this process or an earlier one."""
        return self._kept(name) if name in self._entries else None

    def drop(self, *names: str) -> None:
        """Forget entries; those that do not exist are none."""
        if set(names) & self._entries.keys():
            self._commit({name: entry for name, entry in self._entries.items() if name not in names})

    def finished_blocks(self) -> list[FinishedBlock]:
        """The blocks that are safely done, in order."""
        blocks: list[FinishedBlock] = []
        while _named("block", len(blocks)) in self._entries:
            blocks.append(self._block(len(blocks)))
        return blocks

    def activations(self, index: int) -> dict[str, Tensor]:
        """Hidden states at the input of block ``index``: (samples, length, width), by the kind of blocks before it."""
        return self._kept(_named("activations", index)).tensors()

    def commit(
        self, index: int, tensors: dict[str, Tensor], states: dict[str, Tensor], record: dict[str, Any]
    ) -> FinishedBlock:
        """Make block ``index`` finished, and ``states`` the input of the next one, in one step."""
        before, block, after = _named("activations", index), _named("block", index), _named("activations", index + 1)
        rest = {name: entry for name, entry in self._entries.items() if name != before}
        self._commit({**rest, block: self._entry(tensors, record), after: self._entry(states, None)})
        return self._block(index)

    def replace_block(self, index: int, tensors: Mapping[str, Tensor], record: dict[str, Any]) -> None:
        """Let a finished block have other tensors and another record, as ``commit`` takes them."""
        self.keep(_named("block", index), tensors, record)

    def keep_states(self, index: int, hidden: Tensor, history: History) -> None:
        """Keep the input of block ``index`` for the way back, and the history of its windows."""
        self.keep(_named(STATES, index), {"hidden": hidden}, history)

    def states(self, index: int) -> tuple[Tensor, History]:
        """What ``keep_states`` was given."""
        found = self._kept(_named(STATES, index))
        return found.tensors()["hidden"], found.record

    def states_kept(self) -> int:
        """Blocks whose input is kept, from the first one on."""
        return next(index for index in count() if _named(STATES, index) not in self._entries)

    def keep_gradient(self, index: int, gradient: Tensor, history: History) -> None:
        """Keep the gradient by the input of block ``index``; that input is needed no more."""
        record = {"block": index, "history": history}
        self.keep(GRADIENT, {"gradient": gradient}, record, instead_of=_named(STATES, index))

    def gradient(self) -> tuple[int, Tensor, History]:
        """What ``keep_gradient`` was given last."""
        found = self._kept(GRADIENT)
        return found.record["block"], found.tensors()["gradient"], found.record["history"]

    def keep_sensitivities(self, index: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Keep what was measured for the layers of block ``index``."""
        self.keep(_named(SENSITIVITY, index), tensors, record)

    def measured(self, index: int) -> dict[str, Any]:
        """The record that ``keep_sensitivities`` was given."""
        return self._kept(_named(SENSITIVITY, index)).record

    def finish_sensitivities(self, values: dict[str, float]) -> None:
        """All blocks are measured; ``values``: what each layer is worth, by module path."""
        self.keep(SENSITIVITY, record=values, instead_of=GRADIENT)

    def values(self) -> dict[str, float] | None:
        """What each layer is worth, by module path; None where that is not measured, or not to its end."""
        found = self.kept(SENSITIVITY)
        return None if found is None else found.record

    def sensitivities(self, index: int) -> dict[str, Tensor]:
        """What was measured for the layers of block ``index``; empty where nothing was."""
        return {} if self.values() is None else self._kept(_named(SENSITIVITY, index)).tensors()

    def clear(self) -> None:
        """Remove everything once the model is published."""
        discard(self.directory)

    @property
    def _current(self) -> Path:
        return self.directory / "CURRENT"

    def _open(self) -> None:
        """Take the newest generation that is whole."""
        named = self._current.read_text(errors="replace").split() if self._current.exists() else []
        whole = cache(_whole)  # generations share most of their objects
        damaged = [self._damaged(name, whole) for name in named]
        if all(damaged):
            if self._current.exists():
                fail("CHECKPOINT_DAMAGED", file=next(iter(damaged), self._current.name))
            return
        self._generations = [name for name, bad in zip(named, damaged, strict=True) if not bad]
        self._entries = json.loads((self.objects / self._generations[0]).read_bytes())
        self.fell_back = damaged[0]

    def _damaged(self, generation: str, whole: Callable[[Path], bool]) -> str:
        """The first object of a generation that is not what it was; empty where all are."""
        path = self.objects / Path(generation).name
        if not whole(path):
            return path.name
        objects = _objects(json.loads(path.read_bytes()))
        return next((name for name in sorted(objects) if not whole(self.objects / name)), "")

    def _commit(self, entries: Generation) -> None:
        newest = self._store_json(entries)
        kept = [newest, *(name for name in self._generations if name != newest)][:GENERATIONS]
        write_bytes(self._current, "".join(f"{name}\n" for name in kept).encode())
        self._generations, self._entries = kept, entries
        self._sweep()

    def _entry(self, tensors: Mapping[str, Tensor] | None, record: dict[str, Any] | None) -> Entry:
        path = self._store(dict(tensors)) if tensors else None
        size = path.stat().st_size if path else 0
        return {"record": self._store_json(record or {}), "tensors": path and path.name, "bytes": size}

    def _store(self, tensors: dict[str, Tensor]) -> Path:
        return store(self.objects, partial(save_tensors, tensors=tensors), tensor_bytes(tensors))

    def _store_json(self, value: dict[str, Any]) -> str:
        data = json.dumps(value, allow_nan=False).encode()
        return store(self.objects, lambda path: path.write_bytes(data), len(data)).name

    def _block(self, index: int) -> FinishedBlock:
        found = self._kept(_named("block", index))
        assert found.path is not None
        return FinishedBlock(found.path, found.bytes, **found.record)

    def _kept(self, name: str) -> Kept:
        entry = self._entries[name]
        record = self.objects / entry["record"]
        if not _whole(record):
            fail("CHECKPOINT_DAMAGED", file=record.name)
        path = self.objects / entry["tensors"] if entry["tensors"] else None
        return Kept(json.loads(record.read_bytes()), path, entry["bytes"])

    def _sweep(self) -> None:
        """Remove what no generation names, with what dead writers have left."""
        named = set(self._generations)
        for generation in self._generations:
            named |= _objects(json.loads((self.objects / generation).read_bytes()))
        with named_errors(self.objects):
            for path in self.objects.iterdir():
                if path.name not in named:
                    path.unlink(missing_ok=True)


def _whole(path: Path) -> bool:
    """Whether the bytes of an object are still those that gave it its name."""
    try:
        return path.is_file() and sha256(path) == path.name
    except OSError:  # a sector that cannot be read is damage, too
        return False


def _objects(generation: Generation) -> set[str]:
    return {name for entry in generation.values() for name in (entry["record"], entry["tensors"]) if name}


def _named(kind: str, index: int) -> str:
    return f"{kind}-{index:05d}"
