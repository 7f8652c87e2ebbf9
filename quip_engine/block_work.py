"""One decoder block on its way: Hessians of what it reads, its layers quantized in turn, the tensors kept of it.

    H of every shared input -> each linear layer replaced by its packed one -> activations moved past the block

Where targets are corrected, H of an input is taken once all layers before it are replaced (``correction``).
What a layer cannot do is named and left out; everything else that goes wrong is the run's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quip_engine import events
from quip_engine.activations import Activations, block_hessians
from quip_engine.architecture import hold_weights, linear_modules, weight_of
from quip_engine.correction import Corrected, Twin
from quip_engine.distortion import usual_distortion
from quip_engine.errors import QuipError, Stopped
from quip_engine.few_tokens import fill_up, warning
from quip_engine.finite import check_stored
from quip_engine.layer import QuantizedWeight, quantize_weight
from quip_engine.linalg.hessian import NO_SIGNAL, SINGULAR
from quip_engine.linalg.proxy import eigenvectors
from quip_engine.linear import QuantizedLinear
from quip_engine.methods.registry import Recipe
from quip_engine.overflow import History
from quip_engine.plan import Plan
from quip_engine.probe import ModelFacts
from quip_engine.process import return_small_memory
from quip_engine.skeleton import Skeleton
from quip_engine.transforms.importance import Importance
from quip_engine.tuning.block import BlockObjective, outputs_of, tune_block

UNSTABLE = "QUANT_UNSTABLE"
OF_ONE_LAYER = ("WIDTH_UNSUPPORTED", UNSTABLE)  # errors that leave one layer out


@dataclass(frozen=True)
class Counts:
    """What tokens, outputs and layers of a block count; nothing known: all alike."""

    sensitivities: dict[str, Tensor]  # by path in the block and kind
    recipes: dict[str, Recipe]  # by module path, where not all have that of the run
    mixing: float = 0.0  # share of tokens that count alike: E[((1 - a) w + a) x x^T] mixes two Hessians

    def tokens(self) -> dict[str, Tensor]:
        """(samples, length) by path in the block."""
        known = {k.removesuffix(".tokens"): t for k, t in self.sensitivities.items() if k.endswith(".tokens")}
        return {k: torch.lerp(t, torch.ones_like(t), self.mixing) for k, t in known.items()} if self.mixing else known

    def of(self, names: list[str]) -> Tensor | None:
        """(samples, length): the mean over layers that read the same input, by path in the block."""
        known = self.tokens()
        found = [known[name] for name in names if name in known]
        return torch.stack(found).mean(0) if found else None

    def outputs(self, name: str, device: torch.device) -> Importance | None:
        """What errors of the layer at a path in the block cost."""
        found = self.sensitivities.get(f"{name}.outputs")
        return None if found is None else Importance(found.to(device))

    def recipe(self, recipe: Recipe, path: str) -> Recipe:
        """That of the layer at a module path; ``recipe``: of the run."""
        return self.recipes.get(path, recipe)


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
        self.fallbacks: list[str] = []
        self.overflow: History = {}  # of all windows so far
        self.notes: dict[str, str] = {}  # path in the block -> what calibration did not reach
        self.trained: BlockObjective | None = None  # the block, where it is tuned
        self.started = time.perf_counter()

    def run(self, activations: Activations, original: Activations | None) -> Iterator[events.Event]:
        """Quantize the block in place and move the activations past it.

        ``original``: those behind the original blocks, for targets that are corrected by them; None: as they are.
        """
        self.plan.sources.check()
        block = self.skeleton.load_block(self.index)
        self.plan.sources.check()
        # Weights that wait take the room of their file, unless the block is trained meanwhile.
        tuning = not {"block", "progressive"}.isdisjoint(self.plan.job.tuning.stages)
        held = self.skeleton.dtype if tuning else getattr(torch, self.plan.facts.dtype)
        twin = Twin(block, self.index, activations, original, held) if original else None
        clock = time.perf_counter()
        later = twin.groups() if twin else []
        among = linear_modules(block).keys() - {name for names in later for name in names}
        groups = block_hessians(block, self.index, activations, among, self.counts.tokens()) if among else []
        self.notes = fill_up(block, self.index, activations, groups)
        if self.notes:
            yield events.Warned("FEW_TOKENS", warning(self.index, self.notes))
        inputs = [*later, *(names for names, _ in groups)]
        shared = [[self.plan.projections[self.prefix + name] for name in names] for names in inputs]
        tokens = self.plan.tokens.numel()
        yield events.BlockCalibrated(self.index, tokens, time.perf_counter() - clock, shared)
        linears = linear_modules(block)
        yield from self._skip_unused(linears, {name for names in inputs for name in names})
        self.trained = self._trainable(block, activations, twin)
        ahead = outputs_of(block, self.index, activations) if self.plan.recipe.inputs == "original" else None
        for names in later:
            assert twin is not None
            weights, last = self.counts.of(names), names is later[-1]
            yield from self._quantize_group(block, linears, names, twin.corrected(names, weights, last=last))
        hold_weights(linears, held)  # nobody computes with them until they are rounded
        for names in [names for names, _ in groups]:
            yield from self._quantize_group(block, linears, names, Corrected(groups.pop(0)[1].matrix()))
        hold_weights(linears, self.skeleton.dtype)  # of those left out
        if twin:
            twin.advance()
        elif ahead is not None:
            activations.hidden = ahead
        else:
            activations.advance(block, self.index)
        if activations.places:
            yield from (events.Warned("ACTIVATION_OVERFLOW", text) for text in activations.places.news())
            self.overflow = activations.places.history
        self.tensors = self._stored_tensors(block)
        check_stored(self.tensors)
        self.skeleton.release_block(self.index)

    def record(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        found = {"layers": self.layers, "skipped": self.skipped, "formats": self.formats, "fallbacks": self.fallbacks}
        return {"seconds": seconds, "overflow": self.overflow, **found}

    def _trainable(self, block: nn.Module, activations: Activations, twin: Twin | None) -> BlockObjective | None:
        """The block as something to train, where the job asks for it."""
        if "block" not in self.plan.job.tuning.stages:
            return None
        given = (twin.original, self.index, twin.before) if twin else (block, self.index, activations)
        return BlockObjective(block, self.index, activations, outputs_of(*given))

    def _train(self, objective: BlockObjective, names: list[str], given: Corrected) -> Iterator[events.Event]:
        """Train the block before layers are rounded; their targets are where they begin, and then what they became."""
        if objective.windows < 1:
            yield events.Warned("TUNING_SMALL", f"Block {self.index} is not tuned: there are too few windows.")
            return
        objective.aim(given.targets)
        given.targets.clear()
        seed = derived_seed(self.plan.job.seed, self.prefix + names[0], "tune")
        dtype, rate = getattr(torch, self.plan.facts.dtype), self.plan.job.tuning.rate
        try:
            found = tune_block(objective, dtype, rate, seed, self.stop)
        except Stopped:
            raise Stopped(self.finished) from None
        if found.note:
            yield events.Warned("TUNING_DIVERGED", f"Block {self.index}: {found.note}")
        projections = [self.plan.projections[self.prefix + name] for name in names]
        losses = found.before, found.after
        yield events.BlockTuned(self.index, projections, found.steps, *losses, found.seconds)

    def _quantize_group(
        self, block: nn.Module, linears: dict[str, nn.Module], names: list[str], given: Corrected
    ) -> Iterator[events.Event]:
        if self.trained and self.formats:  # after the first group
            yield from self._train(self.trained, names, given)
        H = given.H
        Q = eigenvectors(H)
        input_seed = derived_seed(self.plan.job.seed, self.prefix + names[0], "input")
        for name in names:
            if self.stop():
                raise Stopped(self.finished)
            path = self.prefix + name
            seed = derived_seed(self.plan.job.seed, path, "layer")
            weight, recipe = given.targets.pop(name, None), self.counts.recipe(self.plan.recipe, path)
            weight = weight_of(linears[name]) if weight is None else weight
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
            yield self._report(path, quantized, [note for note in (self.notes.get(name), given.note) if note])

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
        if any(note.startswith((NO_SIGNAL, SINGULAR)) for note in report.notes):
            self.fallbacks.append(path)
        self.layers.append({k: v for k, v in events.to_json(event).items() if k != "type"})
        self.formats[path] = quantized.format.to_json()
        return event

    def _skip_failed(self, path: str, error: QuipError) -> events.LayerSkipped:
        """Leave out a layer that this recipe cannot do; any other error is the run's."""
        if error.code not in OF_ONE_LAYER:
            raise error
        if error.code == UNSTABLE:
            self.fallbacks.append(path)
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
            self.prefix + key: tensor.cpu() if key in packed else stored(tensor, self.plan.facts)
            for key, tensor in block.state_dict().items()
        }


def quantized_modules(block: nn.Module) -> list[tuple[str, QuantizedLinear]]:
    """The packed layers of a block by path."""
    return [(name, module) for name, module in block.named_modules() if isinstance(module, QuantizedLinear)]


def derived_seed(seed: int, name: str, use: str) -> int:
    """A seed of its own for every layer and use, the same wherever and in whatever order layers are done."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{use}/{name}".encode()).digest()[:6], "big")


def stored(tensor: Tensor, facts: ModelFacts) -> Tensor:
    """In the model's own dtype, on the CPU."""
    return tensor.cpu().to(getattr(torch, facts.dtype) if tensor.is_floating_point() else tensor.dtype).contiguous()
