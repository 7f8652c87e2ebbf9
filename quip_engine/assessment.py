"""An evaluation from names to events: load both models, score every window, then each layer alone, then tasks.

    load -> window 1 .. N (figures so far) -> blocks, positions, worst tokens -> layers alone -> tasks -> finished

Layers alone need one pass of the original each, so they take as many windows as cost about what scoring cost, one at
least and ``LAYER_WINDOWS`` at most. Their KLs nearly add up to that of the whole model, which makes shares of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quip_engine import events
from quip_engine.calibration import evaluation_text
from quip_engine.checkpoint import read_manifest
from quip_engine.config import EvaluationConfig, check_number
from quip_engine.damage import BlockErrors, Positions, WorstTokens, comparable_layers, layers_alone
from quip_engine.devices import resolve_device, use_threads
from quip_engine.errors import QuipError
from quip_engine.evaluate import Running, check_same_tokens, score, text_file, windows
from quip_engine.loading import checked_folder, load_model, usual_dtype
from quip_engine.probe.facts import LinearLayer
from quip_engine.probe.folder import weight_files
from quip_engine.probe.settings import read_config
from quip_engine.prompts import context_length
from quip_engine.tasks import run_task

LAYER_WINDOWS = 4


@dataclass
class Subject:
    """What is evaluated, loaded."""

    job: EvaluationConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    original: PreTrainedModel | None
    tokens: Tensor  # (windows, seqlen)
    folders: tuple[Path, Path | None]


@dataclass
class Found:
    """What an evaluation has found so far."""

    running: Running
    positions: Positions
    worst: WorstTokens = field(default_factory=WorstTokens)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[str, tuple[LinearLayer, list[float]]] = field(default_factory=dict)
    tasks: list[events.TaskScored] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passes: float = 0.0  # seconds


def evaluate_model(job: EvaluationConfig) -> Iterator[events.Event]:
    """Evaluate. Raises the coded errors of what is wrong with models, text and settings."""
    begun = time.monotonic()
    subject = _load(job)
    layers, layer_windows = _planned_layers(subject)
    errors = BlockErrors(subject.model, subject.original) if subject.original is not None else None
    yield _started(subject, layers, layer_windows, errors.blocks if errors else 0)
    found = Found(Running(subject.tokens.shape[1]), Positions(subject.tokens.shape[1] - 1))
    yield from _windows(subject, found, errors)
    if subject.original is not None and not found.blocks:
        found.notes.append("The two models do not have the same blocks, so their states cannot be compared.")
    yield from _layers(subject, found, layers, layer_windows)
    yield from _tasks(subject, found)
    yield _finished(subject, found, time.monotonic() - begun)


def _load(job: EvaluationConfig) -> Subject:
    path = text_file(job.text)
    text = evaluation_text(path)
    device = resolve_device(job.device)
    use_threads(job.threads)
    folder, other_folder = checked_folder(job.model), checked_folder(job.against) if job.against else None
    model, tokenizer = load_model(folder, device)
    check_number("seqlen", job.seqlen, 2, context_length(model) or 2**31, whole=True)
    tokens = windows(tokenizer, text, job.seqlen, source=path.name)[: job.windows]
    original = None
    if other_folder is not None:
        original, other_tokenizer = load_model(other_folder, device)
        check_same_tokens(other_tokenizer, text, tokens, job.against)
    return Subject(job, model, tokenizer, original, tokens, (folder, other_folder))


def _planned_layers(subject: Subject) -> tuple[list[LinearLayer], int]:
    if subject.original is None or not subject.job.layers:
        return [], 0
    try:
        layers = comparable_layers(subject.model, subject.original)
    except ValueError:  # no list of blocks
        layers = []
    affordable = 2 * len(subject.tokens) // len(layers) if layers else 0
    return layers, min(max(1, affordable), LAYER_WINDOWS, len(subject.tokens)) if layers else 0


def _started(subject: Subject, layers: list[LinearLayer], layer_windows: int, blocks: int) -> events.EvaluationStarted:
    job = subject.job
    return events.EvaluationStarted(
        model=job.model,
        against=job.against,
        text=text_file(job.text).name,
        seqlen=subject.tokens.shape[1],
        windows=len(subject.tokens),
        blocks=blocks,
        layers=[layer._asdict() for layer in layers],
        layer_windows=layer_windows,
        tasks=list(job.tasks),
        device=str(subject.model.device),
    )


def _windows(subject: Subject, found: Found, errors: BlockErrors | None) -> Iterator[events.Event]:
    begun = time.monotonic()

    def scored() -> Iterator[events.Event]:
        for index, scores in enumerate(score(subject.model, subject.tokens, subject.original)):
            found.running.add(scores)
            if subject.original is not None:
                found.positions.add(scores)
                found.worst.add(index, scores)
            found.passes = time.monotonic() - begun
            yield events.WindowScored(index + 1, found.running.evaluation().figures(), round(found.passes, 3))

    if errors is None:
        yield from scored()
        return
    with errors:
        yield from scored()
    found.blocks = errors.result()
    for record in found.blocks:
        yield events.BlockCompared(**record)


def _layers(subject: Subject, found: Found, layers: list[LinearLayer], count: int) -> Iterator[events.Event]:
    if not layers or subject.original is None:
        return
    # Spread over the text: a beginning is not like the rest.
    places = torch.linspace(0, len(subject.tokens) - 1, count).round().long()
    for _, layer, kl in layers_alone(subject.model, subject.original, subject.tokens[places], layers):
        kept = found.layers.setdefault(layer.name, (layer, []))[1]
        kept.append(kl)
        yield events.LayerCompared(layer.name, layer.block, layer.projection, sum(kept) / len(kept), len(kept))


def _tasks(subject: Subject, found: Found) -> Iterator[events.Event]:
    for task in subject.job.tasks:
        try:
            metric, value, error = run_task(subject.model, subject.tokenizer, task, subject.job.questions)
            other = subject.original and run_task(subject.original, subject.tokenizer, task, subject.job.questions)[1]
        except QuipError as problem:  # what was measured before is not lost for it
            found.notes.append(f"{problem.message} {problem.hint}")
            yield events.Warned(problem.code, problem.message)
            continue
        found.tasks.append(events.TaskScored(task, metric, value, error, other or None, subject.job.questions))
        yield found.tasks[-1]


def _finished(subject: Subject, found: Found, seconds: float) -> events.EvaluationFinished:
    result, device = found.running.evaluation(), subject.model.device
    folder, other = subject.folders
    return events.EvaluationFinished(
        windows=result.windows,
        seqlen=result.seqlen,
        tokens=result.tokens,
        figures=result.figures(),
        positions=found.positions.result(),
        worst=found.worst.result(subject.tokenizer, subject.tokens),
        blocks=found.blocks,
        layers=[
            {"name": name, "block": layer.block, "projection": layer.projection, "kl": sum(kls) / len(kls)}
            for name, (layer, kls) in found.layers.items()
        ],
        tasks=[asdict(task) for task in found.tasks],
        model=describe(folder, device),
        original=None if other is None else describe(other, device),
        notes=found.notes,
        seconds=round(seconds, 3),
        passes_seconds=found.passes / result.windows,
    )


def describe(folder: Path, device: torch.device) -> dict[str, Any]:
    """A model folder as the results name it: bytes of its weights, bits per weight, and how it was made."""
    facts = {"folder": str(folder), "name": folder.name, "bytes": sum(f.stat().st_size for f in weight_files(folder))}
    if "quantization_config" not in read_config(folder):
        return {**facts, "bits_per_weight": 8.0 * usual_dtype(folder, device).itemsize, "bits": None, "method": ""}
    try:
        manifest = read_manifest(folder)
    except QuipError:  # not one of ours, or a copy made by save_pretrained
        manifest = {"method": "quantized"}
    return {**facts, **{name: manifest.get(name) for name in ("bits_per_weight", "bits", "method")}}
