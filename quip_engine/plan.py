"""Everything settled about a job before the first weight is read, and the checks that settle it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import quip_engine
from quip_engine import events
from quip_engine.calibration import Windows, calibration_windows
from quip_engine.checkpoint import COMPANIONS
from quip_engine.config import JobConfig, TuningConfig
from quip_engine.devices import resolve_device
from quip_engine.encoders import framed
from quip_engine.errors import fail
from quip_engine.estimate import output_bytes
from quip_engine.files import check_output
from quip_engine.identity import Sources, code_digest
from quip_engine.loading import load_tokenizer
from quip_engine.methods.mixing import resolve_mixed
from quip_engine.methods.registry import Recipe
from quip_engine.native import library
from quip_engine.probe import ModelFacts, probe
from quip_engine.probe.folder import weight_files
from quip_engine.probe.settings import ENCODERS
from quip_engine.targets import Target, settle

LEAST_TO_TUNE = 8  # windows; four of them judge


@dataclass(frozen=True)
class Plan:
    """Everything settled before the first weight is read."""

    job: JobConfig
    facts: ModelFacts
    recipe: Recipe
    tokens: Tensor  # (samples, length)
    device: torch.device
    target: Target
    warnings: list[tuple[str, str]]
    tuning_tokens: Tensor  # (samples, length), that predictions are tuned on; none where they are not

    @cached_property
    def projections(self) -> dict[str, str]:
        """The short name of each layer, unique within a block, by module path."""
        return {layer.name: layer.projection for layer in self.facts.linear_layers}

    @cached_property
    def sources(self) -> Sources:
        """The files of the model that decide the result, as they are when first asked for."""
        folder = Path(self.facts.path)
        companions = [path for pattern in COMPANIONS for path in sorted(folder.glob(pattern))]
        return Sources([folder / "config.json", *companions, *weight_files(folder)])

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the result. A resume with anything else is refused by field."""
        tuning = self.job.tuning
        return {
            "files": self.sources.digests,
            "calibration": _digest(self.tokens),
            "tuning": {**asdict(tuning), "stages": list(tuning.stages), "text": _digest(self.tuning_tokens)},
            "recipe": self.recipe.to_json(),
            "method": self.job.recipe.method,
            "bits": self.job.recipe.bits,
            "budget": asdict(self.job.budget),
            "seed": self.job.seed,
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "out": self.job.out,
            "versions": versions(),
            "code": code_digest(),
        }

    def run_started(self, resumed_at: int) -> events.RunStarted:
        layers = [asdict(events.LayerName(*layer)) for layer in self.facts.linear_layers]
        return events.RunStarted(
            model=self.facts.path,
            architecture=self.facts.architecture,
            recipe={"method": self.job.recipe.method, "bits": self.job.recipe.bits, **self.recipe.to_json()},
            calibration={**asdict(self.job.calibration), "windows": list(self.tokens.shape)},
            blocks=self.facts.blocks,
            layers=layers,
            output_bytes=output_bytes(self.facts, self.recipe, self.target.weight_bytes),
            seed=self.job.seed,
            device=str(self.device),
            resumed_at=resumed_at,
        )


def versions() -> dict[str, str]:
    """Of everything whose bits differ from one to the next: libraries, processor, and whether kernels are compiled."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "quip_studio": quip_engine.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "kernels": "compiled" if library() else "torch",
    }


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def make_plan(job: JobConfig, *, resumed: bool = False) -> Plan:
    """Check model, recipe, output and calibration text; nothing is written. Raises the coded errors.

    ``resumed``: the output is not looked at, it may be this run's own.
    """
    resolve_mixed(job.recipe)  # what is wrong with a recipe is told before a model is read
    facts = probe(job.model)
    predicts = facts.model_type not in ENCODERS
    target = settle(job.recipe, job.budget, facts)
    job = replace(job, recipe=replace(job.recipe, bits=target.bits), tuning=_of_that_size(job))
    recipe = target.recipe
    if not resumed:
        check_output(Path(job.out), Path(facts.path))
    device = resolve_device(job.device)
    tokenizer = load_tokenizer(Path(facts.path))
    windows = calibration_windows(tokenizer, job.calibration, job.seed, facts.context)
    tokens = windows.tokens if predicts else framed(windows.tokens, tokenizer)
    notes = [*facts.warnings, *windows.notes]
    tuning = _tuning_windows(job, facts)
    notes += [note for note in tuning.notes if note not in notes]
    if recipe.weighted and not predicts:
        recipe = replace(recipe, hessian="plain", spread=0.0)
        notes.append(("NO_PREDICTIONS", "An encoder predicts nothing to weigh errors by: all tokens count alike."))
    return Plan(job, facts, recipe, tokens, device, target, notes, tuning.tokens)


def _of_that_size(job: JobConfig) -> TuningConfig:
    """Tuning that leaves packed embeddings, and the bytes of what has to meet a size, as they are."""
    tuning, sized = job.tuning, job.budget.size or job.budget.fits
    return replace(
        tuning,
        head=tuning.head and not job.budget.embeddings,
        relax_signs="never" if sized else tuning.relax_signs,
    )


def _tuning_windows(job: JobConfig, facts: ModelFacts) -> Windows:
    """Of the calibration source, in a number of their own. Raises ``TUNING_SMALL``, for an encoder ``BAD_SETTING``."""
    if not set(job.tuning.stages) & {"progressive", "end-to-end", "pv"}:
        return Windows(torch.empty(0, dtype=torch.int64))
    if facts.model_type in ENCODERS:
        fail("BAD_SETTING", field="tuning", value=", ".join(job.tuning.stages), allowed="block, for an encoder")
    drawn = replace(job.calibration, samples=job.tuning.samples)
    windows = calibration_windows(load_tokenizer(Path(facts.path)), drawn, job.seed, facts.context)
    if len(windows.tokens) < LEAST_TO_TUNE:
        fail("TUNING_SMALL", windows=len(windows.tokens), needed=LEAST_TO_TUNE)
    return windows
