"""One linear layer of a model as a problem of its own: its weights W and the H of what it reads.

    blocks 0 .. k-1 --calibration windows--> inputs of block k --> H = E[x x^T] of the layer's input

The blocks are those of the original model, one in memory at a time, and few windows are enough to look at a layer.
Problems are kept below the data directory, in the format that ``layer`` reads (a safetensors file with W and H), and so
are the inputs of the blocks that were visited: the next layer of a model starts at the nearest of them. What is kept
has a name that follows from the model's files and the calibration, and a limit of size; the oldest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.activations import Activations, block_hessians
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.calibration import calibration_windows
from quip_engine.checkpoint import write_tensors
from quip_engine.config import CalibrationConfig
from quip_engine.devices import resolve_device
from quip_engine.encoders import framed
from quip_engine.errors import Stopped, fail
from quip_engine.experts import expert_modules
from quip_engine.few_tokens import fill_up
from quip_engine.files import data_home
from quip_engine.loading import load_tokenizer
from quip_engine.probe import ModelFacts
from quip_engine.probe.facts import LinearLayer
from quip_engine.probe.folder import weight_files
from quip_engine.probe.settings import ENCODERS
from quip_engine.skeleton import Skeleton

FEW = CalibrationConfig(samples=16)
KEPT_BYTES = 2 * 10**9


@dataclass(frozen=True)
class LayerProblem:
    """W: (m, n) and H: (n, n) of a layer, both float32 on the CPU, and the file that holds them."""

    layer: LinearLayer
    W: Tensor
    H: Tensor
    file: Path


Progress = Generator[tuple[int, int], None, LayerProblem]  # blocks passed, blocks to pass


def layer_problem(
    facts: ModelFacts,
    layer: LinearLayer,
    calibration: CalibrationConfig = FEW,
    *,
    home: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
) -> LayerProblem:
    """W and H of one ``layer`` of ``facts``; from the data directory ``home`` where they are known."""
    steps = stream_problem(facts, layer, calibration, home=home, seed=seed, device=device, offline=offline)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: LayerProblem = end.value
            return found


def stream_problem(
    facts: ModelFacts,
    layer: LinearLayer,
    calibration: CalibrationConfig = FEW,
    *,
    home: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    offline: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """The same in steps: yields how many of the blocks before the layer's are passed, and how many there are.

    Raises ``Stopped`` once ``stop()`` is true after a block, and the errors of calibration texts.
    """
    kept = Kept((home or data_home()) / "problems", _key(facts, calibration, seed))
    if (found := kept.read(layer.name)) is not None:
        return LayerProblem(layer, found["W"], found["H"], kept.path(layer.name))
    tokenizer = load_tokenizer(Path(facts.path))
    tokens = calibration_windows(tokenizer, calibration, seed, facts.context, offline=offline).tokens
    tokens = framed(tokens, tokenizer) if facts.model_type in ENCODERS else tokens
    skeleton = Skeleton(Path(facts.path), resolve_device(device))
    first, hidden = kept.nearest_states(layer.block)
    skeleton.load_outside()
    activations = Activations(skeleton, tokens, hidden)
    skeleton.release_outside()
    for index in range(first, layer.block):
        yield index, layer.block
        activations.advance(skeleton.load_block(index), index)
        skeleton.release_block(index)
        if stop():
            raise Stopped(f"{index + 1} of {layer.block} blocks")
    yield layer.block, layer.block
    if layer.block > first:
        kept.write(_states(layer.block), {"hidden": activations.hidden.cpu()})
    tensors = _take(skeleton, layer, activations)
    return LayerProblem(layer, tensors["W"], tensors["H"], kept.write(layer.name, tensors))


def find_layer(facts: ModelFacts, name: str) -> LinearLayer:
    """The layer of a module path, or of BLOCK.PROJECTION (``3.q_proj``). Raises ``BAD_SETTING``."""
    for layer in facts.linear_layers:
        if name in (layer.name, f"{layer.block}.{layer.projection}"):
            return layer
    first = facts.linear_layers[0]
    allowed = f"the path of a layer in a block, such as {first.name}, or {first.block}.{first.projection} in short"
    fail("BAD_SETTING", field="layer", value=repr(name), allowed=allowed)


@torch.no_grad()
def _take(skeleton: Skeleton, layer: LinearLayer, activations: Activations) -> dict[str, Tensor]:
    """W and H of a layer, whose block is next."""
    block, path = skeleton.load_block(layer.block), layer.name.removeprefix(f"{skeleton.prefix}.{layer.block}.")
    among = None if expert_modules(block) else {path}  # experts with few tokens are filled up from all others
    groups = block_hessians(block, layer.block, activations, among)
    fill_up(block, layer.block, activations, groups)
    hessian = next((found for names, found in groups if path in names), None)
    if hessian is None:
        reason = "no token of the calibration text reaches it"
        fail("QUANT_UNSTABLE", name=layer.name, reason=reason)
    W = weight_of(linear_modules(block)[path]).detach()
    return {"W": W.float().cpu().contiguous(), "H": hessian.matrix().cpu()}


def _states(block: int) -> str:
    return f"states-{block:05}"


def _key(facts: ModelFacts, calibration: CalibrationConfig, seed: int) -> str:
    """What problems of a model depend on: its files as they are now, the text, and how windows are drawn."""
    folder, source = Path(facts.path), Path(calibration.source).expanduser()
    parts = [*sorted(weight_files(folder)), folder / "config.json", folder / "tokenizer.json", source]
    stamps = [(path.name, s.st_size, s.st_mtime_ns) for path in parts if path.is_file() for s in [path.stat()]]
    text = json.dumps([str(folder.resolve()), stamps, asdict(calibration), seed])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Kept:
    """Tensors kept in a folder under a key, at most ``KEPT_BYTES`` of all keys together."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def path(self, name: str) -> Path:
        return self.folder / f"{self.key}-{name}.safetensors"

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a name; None where they are not kept, or damaged. What is read is young again."""
        path = self.path(name)
        try:
            tensors = load_file(path)
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return tensors

    def nearest_states(self, block: int) -> tuple[int, Tensor | None]:
        """The last block up to ``block`` whose inputs are kept, and these; else the first block, and None."""
        pattern = re.compile(rf"{self.key}-states-(\d+)\.safetensors")
        names = [path.name for path in self.folder.glob(f"{self.key}-states-*")]
        known = sorted((int(match[1]) for name in names if (match := pattern.fullmatch(name))), reverse=True)
        for index in known:
            if index <= block and (tensors := self.read(_states(index))) is not None:
                return index, tensors["hidden"]
        return 0, None

    def write(self, name: str, tensors: dict[str, Tensor]) -> Path:
        """Keep tensors, and let go of the oldest files that are too many then."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.path(name)
        write_tensors(path, tensors)
        self._tidy(path)
        return path

    def _tidy(self, newest: Path) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):  # somebody else tidies up, too
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total > KEPT_BYTES and path != newest:
                path.unlink(missing_ok=True)
                total -= size
