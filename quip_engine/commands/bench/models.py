"""``bench methods --end-to-end``: whole models quantized, loaded again and compared with their originals.

Perplexity and KL come with their standard errors over the windows of the text (``evaluate``). All methods read the
same windows, so of a difference between two of them far more is certain than the errors of each suggest. With several
seeds, figures are means over them, and so is the error: the windows are the same each time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quip_engine.calibration import evaluation_text
from quip_engine.commands.bench.methods import Named, averaged
from quip_engine.commands.bench.outliers import make_outlier_model
from quip_engine.commands.evaluate import SEQLEN
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.commands.tuning_args import tuning_numbers
from quip_engine.config import CalibrationConfig, JobConfig, TuningConfig
from quip_engine.devices import resolve_device
from quip_engine.evaluate import Evaluation, evaluate, windows
from quip_engine.events import RunFinished
from quip_engine.loading import checked_folder, load_model
from quip_engine.pipeline import quantize_model
from quip_engine.prompts import context_length

DEMO = Path(__file__).parents[3] / "assets" / "demo-model"
MEASURED = ("perplexity", "mean_kl", "top1_agreement")
COLUMNS = (
    *("bits per weight", "MB", "mean proxy loss", "perplexity", "times the original's", "KL to the original"),
    *("same top token", "seconds"),
)


def compare_models(options: argparse.Namespace, methods: Sequence[Named]) -> list[dict[str, Any]]:
    """One row for each method on each model, printed as they come; the original has a row of its own."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="quip-bench-") as folder:
        models = [checked_folder(name) for name in options.models or [str(DEMO)]]
        if options.outliers:
            models.append(make_outlier_model(Path(folder) / "random-outliers", DEMO))
        for model in models:
            rows += _compare(Subject.read(model, options), methods, Path(folder), options)
    return rows


@dataclass
class Subject:
    """A model and the windows it is judged by."""

    path: Path
    original: PreTrainedModel
    tokens: Tensor  # (windows, length)
    device: torch.device

    @classmethod
    def read(cls, path: Path, options: argparse.Namespace) -> Subject:
        device = resolve_device(options.device)
        original, tokenizer = load_model(path, device)
        seqlen = min(SEQLEN, context_length(original) or SEQLEN)
        tokens = windows(tokenizer, evaluation_text(options.text), seqlen, options.text.name)
        return cls(path, original, tokens[: options.max_windows], device)


def _compare(
    subject: Subject, methods: Sequence[Named], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    base = evaluate(subject.original, subject.tokens)
    seeds = options.seeds or 1
    measured = f"{base.tokens} tokens in windows of {base.seqlen}, {averaged(seeds)}"
    print(f"\n{subject.path.name}: {measured}\n", file=sys.stderr)
    table = MarkdownTable("method", "bits", *COLUMNS)
    size = sum(path.stat().st_size for path in subject.path.iterdir())
    rows: list[dict[str, Any]] = [{"model": subject.path.name, "name": "original", "bytes": size} | _figures([base])]
    table.add("original", "", *_cells(rows[0]))
    for method in methods:
        word, recipe, _ = method
        runs = [_run(subject, method, seed, folder, options) for seed in range(seeds)]
        row: dict[str, Any] = {"model": subject.path.name, "name": word, "bits": recipe.bits, "seeds": seeds}
        row |= _costs([finished for finished, _ in runs]) | _figures([result for _, result in runs])
        row["perplexity_ratio"] = row["perplexity"] / rows[0]["perplexity"]
        row["skipped"] = sorted({name for finished, _ in runs for name in finished.skipped})
        rows.append(row)
        table.add(f"`{word}`", f"{recipe.bits:g}", *_cells(row))
        if row["skipped"]:
            print(f"kept in the original precision: {', '.join(row['skipped'])}", file=sys.stderr)
    return rows


def _run(
    subject: Subject, method: Named, seed: int, folder: Path, options: argparse.Namespace
) -> tuple[RunFinished, Evaluation]:
    """Quantize, load and evaluate; nothing is left on disk."""
    usual = CalibrationConfig()
    calibration = CalibrationConfig(options.calibration or usual.source, options.samples or usual.samples)
    tuning = TuningConfig(method.stages, **tuning_numbers(options))
    machine = {"seed": seed, "device": options.device, "threads": options.threads}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out = Path(place) / "quantized"
        job = JobConfig(str(subject.path), str(out), method.recipe, calibration, **machine, tuning=tuning)
        *_, finished = quantize_model(job, Path(place) / "work", lambda: False)
        assert isinstance(finished, RunFinished)
        model, _ = load_model(out, subject.device)
        return finished, evaluate(model, subject.tokens, subject.original)


def _costs(runs: Sequence[RunFinished]) -> dict[str, Any]:
    keys = ("bits_per_weight", "bytes", "mean_rel_proxy", "seconds")
    return {key: statistics.fmean(getattr(run, key) for run in runs) for key in keys}


def _figures(results: Sequence[Evaluation]) -> dict[str, float | None]:
    """Each figure and its standard error, both as means over the seeds; None where it was not measured."""
    found: dict[str, float | None] = {}
    for key in MEASURED:
        estimates = [estimate for result in results if (estimate := getattr(result, key)) is not None]
        errors = [estimate.error for estimate in estimates if estimate.error is not None]
        found[key] = statistics.fmean(estimate.value for estimate in estimates) if estimates else None
        found[f"{key}_error"] = statistics.fmean(errors) if errors else None
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    bits, agreement = row.get("bits_per_weight"), row["top1_agreement"]
    return [
        "" if bits is None else f"{bits:.3f}",
        f"{row['bytes'] / 1e6:.1f}",
        figure(row.get("mean_rel_proxy")),
        _with_error(row, "perplexity"),
        f"{row['perplexity_ratio']:.4f}" if "perplexity_ratio" in row else "",
        _with_error(row, "mean_kl"),
        "" if agreement is None else f"{100 * agreement:.1f} %",
        "" if bits is None else f"{row['seconds']:.0f}",
    ]


def _with_error(row: dict[str, Any], key: str) -> str:
    value, error = row[key], row[f"{key}_error"]
    if value is None:
        return ""
    return f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")
