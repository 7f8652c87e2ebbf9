"""The main job: a model folder in, a packed checkpoint out, one decoder block in memory at a time.

    for each block:  load -> one H per shared input -> quantize each linear layer -> save -> pass the activations on

Every H comes from activations that already went through the quantized blocks before it (QuIP section 6), so later
layers are calibrated on what they will really see. The function yields events and never prints; what it needs to
continue after a crash is in its workspace.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quip_engine import events
from quip_engine.activations import Activations, block_hessians
from quip_engine.architecture import hold_weights, linear_modules, weight_of
from quip_engine.checkpoint import assemble, quantization_config, write_tensors
from quip_engine.config import JobConfig
from quip_engine.devices import peak_gpu_mb, peak_rss_mb
from quip_engine.distortion import usual_distortion
from quip_engine.errors import QuipError, Stopped, fail
from quip_engine.few_tokens import fill_up, warning
from quip_engine.layer import LayerFormat, QuantizedWeight, quantize_weight
from quip_engine.linalg.hessian import Hessian
from quip_engine.linalg.proxy import eigenvectors
from quip_engine.linear import QuantizedLinear
from quip_engine.methods.registry import Recipe
from quip_engine.plan import Plan, make_plan
from quip_engine.probe import ModelFacts
from quip_engine.process import return_small_memory
from quip_engine.sensitivity import measure
from quip_engine.skeleton import Skeleton
from quip_engine.spread import layer_bits
from quip_engine.workspace import FinishedBlock, Workspace

OF_THE_RUN = ("seconds", "theory")  # of a layer's record: not kept with the model
OF_ONE_LAYER = ("WIDTH_UNSUPPORTED", "QUANT_UNSTABLE")  # errors that leave one layer out


def quantize_model(job: JobConfig, workspace: Path, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Run a job to its end, from wherever its workspace says it is.

    Raises ``QuipError`` for anything a person can mend and ``Stopped`` (with the number of finished blocks) once
    ``stop()`` is true at the end of a layer.
    """
    started = time.perf_counter()
    torch.set_num_threads(job.threads or torch.get_num_threads())
    yield events.PhaseChanged("check")
    plan = make_plan(job)
    space = Workspace(workspace)
    space.claim(plan.identity())
    done = space.finished_blocks()
    yield plan.run_started(len(done))
    yield from (events.Warned(code, message) for code, message in plan.warnings)

    yield events.PhaseChanged("calibrate", f"{plan.tokens.numel()} tokens")
    if plan.recipe.hessian == "weighted" and space.values() is None:
        yield from measure(plan, space, stop)
    bits = spread_bits(plan, space)
    skeleton = Skeleton(Path(plan.facts.path), plan.device)
    skeleton.load_outside()
    activations = Activations(skeleton, plan.tokens, space.activations(len(done)) if done else None)
    skeleton.release_outside()
    yield events.PhaseChanged("quantize")
    for index in range(len(done), plan.facts.blocks):
        if stop():
            raise Stopped(len(done))
        work = BlockWork(plan, skeleton, index, stop, Counts(space.sensitivities(index), bits), finished=len(done))
        yield from work.run(activations)
        done.append(space.commit(index, work.tensors, activations.hidden, work.record()))
        rss, gpu = peak_rss_mb(), peak_gpu_mb(plan.device)
        yield events.BlockSaved(index, done[-1].bytes, done[-1].sha256, done[-1].seconds, rss, gpu)

    if not any(block.layers for block in done):
        first = next((reason for block in done for reason in block.skipped.values()), "It has no linear layers")
        fail("NOTHING_QUANTIZED", name=plan.facts.name, reason=first)
    yield events.PhaseChanged("pack")
    size = publish(plan, skeleton, space, done)
    space.clear()
    yield events.PhaseChanged("done")
    yield _finished(plan, done, size, time.perf_counter() - started)


def spread_bits(plan: Plan, space: Workspace) -> dict[str, float]:
    """The bits of each layer by module path; empty where all have those of the recipe."""
    values = space.values()
    if values is None or not plan.recipe.spread:
        return {}
    return layer_bits(plan.recipe, plan.job.recipe.bits, plan.facts.linear_layers, values)


@dataclass(frozen=True)
class Counts:
    """What tokens, outputs and layers of a block count; nothing known: all alike."""

    sensitivities: dict[str, Tensor]  # by path in the block and kind
    bits: dict[str, float]  # by module path

    def tokens(self) -> dict[str, Tensor]:
        """(samples, length) by path in the block."""
        return {k.removesuffix(".tokens"): t for k, t in self.sensitivities.items() if k.endswith(".tokens")}

    def outputs(self, name: str, device: torch.device) -> Tensor | None:
        """(m,) of the layer at a path in the block."""
        found = self.sensitivities.get(f"{name}.outputs")
        return None if found is None else found.to(device)

    def recipe(self, recipe: Recipe, path: str) -> Recipe:
        """With the bits of the layer at a module path."""
        return recipe.at(self.bits[path]) if path in self.bits else recipe


class BlockWork:
    """One decoder block on its way: Hessians, layers, and the tensors that will be stored for it."""

    def __init__(
        self, plan: Plan, skeleton: Skeleton, index: int, stop: Callable[[], bool], counts: Counts, *, finished: int
    ) -> None:
        self.plan, self.skeleton, self.index, self.stop, self.finished = plan, skeleton, index, stop, finished
        self.counts = counts
        self.prefix = f"{skeleton.prefix}.{index}."
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.formats: dict[str, Any] = {}
        self.notes: dict[str, str] = {}  # path in the block -> what calibration did not reach
        self.started = time.perf_counter()

    def run(self, activations: Activations) -> Iterator[events.Event]:
        """Quantize the block in place and move the activations past it."""
        block = self.skeleton.load_block(self.index)
        clock = time.perf_counter()
        groups = block_hessians(block, self.index, activations, weights=self.counts.tokens())
        self.notes = fill_up(block, self.index, activations, groups)
        if self.notes:
            yield events.Warned("FEW_TOKENS", warning(self.index, self.notes))
        shared = [[self.plan.projections[self.prefix + name] for name in names] for names, _ in groups]
        tokens = self.plan.tokens.numel()
        yield events.BlockCalibrated(self.index, tokens, time.perf_counter() - clock, shared)
        linears = linear_modules(block)
        yield from self._skip_unused(linears, {name for names, _ in groups for name in names})
        hold_weights(linears, getattr(torch, self.plan.facts.dtype))
        while groups:
            yield from self._quantize_group(block, linears, *groups.pop(0))
        hold_weights(linears, self.skeleton.dtype)  # of those left out
        activations.advance(block, self.index)
        self.tensors = self._stored_tensors(block)
        self.skeleton.release_block(self.index)

    def record(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        return {"seconds": seconds, "layers": self.layers, "skipped": self.skipped, "formats": self.formats}

    def _quantize_group(
        self, block: nn.Module, linears: dict[str, nn.Module], names: list[str], hessian: Hessian
    ) -> Iterator[events.Event]:
        hessian.symmetrize_()
        H = hessian.matrix
        Q = eigenvectors(H)
        input_seed = derived_seed(self.plan.job.seed, self.prefix + names[0], "input")
        for name in names:
            if self.stop():
                raise Stopped(self.finished)
            path = self.prefix + name
            seed = derived_seed(self.plan.job.seed, path, "layer")
            weight, recipe = weight_of(linears[name]), self.counts.recipe(self.plan.recipe, path)
            outputs, last = self.counts.outputs(name, weight.device), name == names[-1]
            quantize = partial(quantize_weight, weight, H, recipe, eigenvectors=Q, last=last)
            try:
                quantized = quantize(seed=seed, input_seed=input_seed, name=path, importance=outputs)
            except QuipError as error:
                yield self._skip_failed(path, error)
                continue
            finally:
                del weight, quantize
            # From here on the block computes with what will be loaded later, and the dense weight is free.
            packed = QuantizedLinear.from_quantized(quantized, dict(linears.pop(name).named_parameters()).get("bias"))
            block.set_submodule(name, packed)
            return_small_memory()
            yield self._report(path, quantized, [self.notes[name]] if name in self.notes else [])

    def _report(self, path: str, quantized: QuantizedWeight, notes: list[str]) -> events.LayerQuantized:
        report = replace(quantized.report, notes=notes + quantized.report.notes)
        theory = {**asdict(report.theory), "mse": usual_distortion(quantized.format.codebook)}
        event = events.LayerQuantized(
            name=path,
            block=self.index,
            projection=self.plan.projections[path],
            shape=quantized.shape,
            **(asdict(report) | {"theory": theory}),
            transform=quantized.format.transform.described() if self.plan.recipe.rivals else "",
        )
        self.layers.append({k: v for k, v in events.to_json(event).items() if k != "type"})
        self.formats[path] = quantized.format.to_json()
        return event

    def _skip_failed(self, path: str, error: QuipError) -> events.LayerSkipped:
        """Leave out a layer that this recipe cannot do; any other error is the run's."""
        if error.code not in OF_ONE_LAYER:
            raise error
        self.skipped[path] = f"{error.message} Kept in its original precision"
        return events.LayerSkipped(path, self.index, self.skipped[path])

    def _skip_unused(self, linears: dict[str, nn.Module], used: set[str]) -> Iterator[events.Event]:
        for name in [name for name in linears if name not in used]:
            reason = "no calibration text reached it; kept in its original precision"
            self.skipped[self.prefix + name] = reason
            yield events.LayerSkipped(self.prefix + name, self.index, reason)

    def _stored_tensors(self, block: nn.Module) -> dict[str, Tensor]:
        """Packed layers as they are; norms, biases and skipped layers in the model's own dtype."""
        packed = {f"{name}.{key}" for name, module in quantized_modules(block) for key in module.tensors()}
        return {
            self.prefix + key: tensor.cpu() if key in packed else _stored(tensor, self.plan.facts)
            for key, tensor in block.state_dict().items()
        }


def quantized_modules(block: nn.Module) -> list[tuple[str, QuantizedLinear]]:
    """The packed layers of a block by path."""
    return [(name, module) for name, module in block.named_modules() if isinstance(module, QuantizedLinear)]


def publish(plan: Plan, skeleton: Skeleton, space: Workspace, done: list[FinishedBlock]) -> int:
    """Write what lies outside the blocks and let the finished folder appear in one rename. Returns its bytes."""
    path = space.directory / "outside.safetensors"
    skeleton.load_outside()
    write_tensors(path, _outside_tensors(plan, skeleton))
    skeleton.release_outside()
    recipe, job = plan.job.recipe, {"method": plan.job.recipe.method, "bits": plan.job.recipe.bits}
    skipped = {name: reason for block in done for name, reason in block.skipped.items()}
    formats = {name: LayerFormat.from_json(f) for block in done for name, f in block.formats.items()}
    quantization = quantization_config(
        method=recipe.method, bits=recipe.bits, recipe=plan.recipe, seed=plan.job.seed, layers=formats, skipped=skipped
    )
    calibration = {**asdict(plan.job.calibration), "windows": list(plan.tokens.shape)}
    manifest = {
        "model": plan.facts.name,
        **job,
        "bits_per_weight": mean_bits(done),
        "recipe": plan.recipe.to_json(),
        "seed": plan.job.seed,
        "calibration": {**calibration, "source": Path(calibration["source"]).name},
        "layers": [{k: v for k, v in layer.items() if k not in OF_THE_RUN} for block in done for layer in block.layers],
        "skipped": skipped,
    }
    shards = [path, *(block.path for block in done)]
    return assemble(Path(plan.facts.path), Path(plan.job.out).absolute(), shards, quantization, manifest)


def _outside_tensors(plan: Plan, skeleton: Skeleton) -> dict[str, Tensor]:
    """Embeddings, final norm and head in the model's own dtype; a tied head is stored once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in skeleton.model.state_dict(keep_vars=True).items():
        if not key.startswith(f"{skeleton.prefix}.") and id(tensor) not in seen:
            seen.add(id(tensor))
            found[key] = _stored(tensor.detach(), plan.facts)
    return found


def mean_bits(done: list[FinishedBlock]) -> float:
    """Stored bits per quantized weight, over all quantized layers."""
    layers = [layer for block in done for layer in block.layers]
    weights = [layer["shape"][0] * layer["shape"][1] for layer in layers]
    bits = sum(w * layer["bits_per_weight"] for w, layer in zip(weights, layers, strict=True))
    return bits / max(1, sum(weights))


def _finished(plan: Plan, done: list[FinishedBlock], size: int, seconds: float) -> events.RunFinished:
    losses = [layer["rel_proxy"] for block in done for layer in block.layers]
    return events.RunFinished(
        out=str(Path(plan.job.out).absolute()),
        method=plan.job.recipe.method,
        bits=plan.job.recipe.bits,
        bits_per_weight=mean_bits(done),
        bytes=size,
        seconds=seconds,
        peak_rss_mb=peak_rss_mb(),
        mean_rel_proxy=sum(losses) / max(1, len(losses)),
        skipped=[name for block in done for name in block.skipped],
    )


def derived_seed(seed: int, name: str, use: str) -> int:
    """A seed of its own for every layer and use, the same wherever and in whatever order layers are done."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{use}/{name}".encode()).digest()[:6], "big")


def _stored(tensor: Tensor, facts: ModelFacts) -> Tensor:
    return tensor.cpu().to(getattr(torch, facts.dtype) if tensor.is_floating_point() else tensor.dtype).contiguous()
