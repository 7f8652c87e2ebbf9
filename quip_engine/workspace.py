"""What a run keeps on disk while it works, so that a killed run goes on after its last finished block.

identity.json              what the run was started from; a resume must match it field by field
block-00003.safetensors    packed codes and small tensors of a finished block
activations-00004.safetensors   calibration hidden states at the input of the next one
block-00003.json           written last: its presence, with both checksums, is what makes block 3 finished
states-00003.safetensors   hidden states at the input of block 3 while a gradient is on its way back
sensitivity-00003.safetensors   what errors of its layers cost, by token and by output
sensitivity.json           written last: what whole layers are worth, with the checksums of those files
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from quip_engine.checkpoint import write_tensors
from quip_engine.errors import fail
from quip_engine.files import sha256, write_json

SENSITIVITY = "sensitivity.json"


@dataclass(frozen=True)
class FinishedBlock:
    """One committed block: its shard, and what its layers reported."""

    path: Path
    bytes: int
    sha256: str
    seconds: float
    layers: list[dict[str, Any]]  # LayerQuantized records
    skipped: dict[str, str]  # module path -> reason
    formats: dict[str, Any]  # module path -> LayerFormat record


class Workspace:
    """The working files of one run. Belongs to the worker that holds the run's lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def claim(self, identity: dict[str, Any]) -> None:
        """Record what this run is made from, or refuse to go on with something else (``RESUME_MISMATCH``)."""
        path = self.directory / "identity.json"
        if not path.exists():
            write_json(path, identity)
            return
        before = json.loads(path.read_text())
        changed = [key for key in sorted(before.keys() | identity.keys()) if before.get(key) != identity.get(key)]
        if changed:
            fail("RESUME_MISMATCH", fields=", ".join(changed))

    def finished_blocks(self) -> list[FinishedBlock]:
        """The blocks that are safely done, in order. Raises ``CHECKPOINT_DAMAGED`` for bytes that changed since."""
        blocks: list[FinishedBlock] = []
        while (record := self._path(len(blocks), "json")).exists():
            values = json.loads(record.read_text())
            block = FinishedBlock(path=self._path(len(blocks), "safetensors"), **values["block"])
            if not block.path.exists() or sha256(block.path) != block.sha256:
                fail("CHECKPOINT_DAMAGED", file=block.path.name)
            blocks.append(block)
        return blocks

    def activations(self, index: int) -> Tensor:
        """Hidden states at the input of block ``index``: (samples, length, width)."""
        path = self._activations(index)
        expected = json.loads(self._path(index - 1, "json").read_text())["activations_sha256"]
        if not path.exists() or sha256(path) != expected:
            fail("CHECKPOINT_DAMAGED", file=path.name)
        return load_file(path)["hidden"]

    def commit(self, index: int, tensors: dict[str, Tensor], hidden: Tensor, record: dict[str, Any]) -> FinishedBlock:
        """Make block ``index`` finished: its shard, the activations after it, then the record that names both."""
        path = self._path(index, "safetensors")
        size, digest = write_tensors(path, tensors)
        _, activations_digest = write_tensors(self._activations(index + 1), {"hidden": hidden})
        values = {"bytes": size, "sha256": digest, **record}
        write_json(self._path(index, "json"), {"block": values, "activations_sha256": activations_digest})
        self._activations(index).unlink(missing_ok=True)
        return FinishedBlock(path=path, **values)

    def keep_states(self, index: int, hidden: Tensor) -> None:
        """Put the input of block ``index`` aside for the way back."""
        write_tensors(self._path(index, "safetensors", "states"), {"hidden": hidden})

    def take_states(self, index: int) -> Tensor:
        """What ``keep_states`` put aside; it is gone from the disk."""
        path = self._path(index, "safetensors", "states")
        hidden = load_file(path)["hidden"]
        path.unlink()
        return hidden

    def keep_sensitivities(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Keep what was measured for the layers of block ``index``."""
        write_tensors(self._path(index, "safetensors", "sensitivity"), tensors)

    def finish_sensitivities(self, values: dict[str, float]) -> None:
        """All blocks are measured; ``values``: what each layer is worth, by module path."""
        digests = {path.name: sha256(path) for path in sorted(self.directory.glob("sensitivity-*.safetensors"))}
        write_json(self.directory / SENSITIVITY, {"values": values, "files": digests})

    def values(self) -> dict[str, float] | None:
        """What each layer is worth, by module path; None where that is not measured, or not to its end."""
        path = self.directory / SENSITIVITY
        found: dict[str, float] | None = json.loads(path.read_text())["values"] if path.exists() else None
        return found

    def sensitivities(self, index: int) -> dict[str, Tensor]:
        """What was measured for the layers of block ``index``; empty where nothing was."""
        if self.values() is None:
            return {}
        path = self._path(index, "safetensors", "sensitivity")
        expected = json.loads((self.directory / SENSITIVITY).read_text())["files"][path.name]
        if not path.exists() or sha256(path) != expected:
            fail("CHECKPOINT_DAMAGED", file=path.name)
        return load_file(path)

    def clear(self) -> None:
        """Remove the working files once the model is published."""
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()

    def _path(self, index: int, kind: str, name: str = "block") -> Path:
        return self.directory / f"{name}-{index:05d}.{kind}"

    def _activations(self, index: int) -> Path:
        return self.directory / f"activations-{index:05d}.safetensors"
