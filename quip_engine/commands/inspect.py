"""``inspect``: what a model is, whether it can be quantized, and what that would cost; or how it is packed already."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from quip_engine.commands.budget_args import add_budget_arguments, budget_config
from quip_engine.commands.recipe_args import add_recipe_arguments, recipe_config
from quip_engine.config import DEVICES, CalibrationConfig
from quip_engine.probe import ModelFacts, locate, probe
from quip_engine.probe.packing import Packing, packing_of
from quip_engine.probe.settings import read_config

if TYPE_CHECKING:
    from pathlib import Path

    from quip_engine.estimate import Estimate
    from quip_engine.packed import PackedFacts


def add_parser(subparsers: Any) -> None:
    calibration = CalibrationConfig()
    parser = subparsers.add_parser("inspect", help="check a model, and estimate what quantizing it costs")
    parser.add_argument("model", metavar="MODEL", help="folder of a Hugging Face model, or a hub id")
    parser.add_argument("--offline", action="store_true", help="take a hub id from the local cache only")
    add_recipe_arguments(parser)
    add_budget_arguments(parser)
    parser.add_argument("--samples", type=int, default=calibration.samples, help="calibration windows")
    parser.add_argument("--seqlen", type=int, default=calibration.seqlen, help="tokens of each window")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Facts and estimates; a model that is not supported ends with the error that says why."""
    recipe, calibration = recipe_config(options), CalibrationConfig(samples=options.samples, seqlen=options.seqlen)
    budget = budget_config(options)
    folder, name = locate(options.model, offline=options.offline)
    if packing := packing_of(read_config(folder), folder):
        return _packed(folder, name, packing)
    facts = probe(options.model, offline=options.offline)
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.estimate import estimate  # noqa: PLC0415
    from quip_engine.targets import settle  # noqa: PLC0415

    use_threads(options.threads)
    target = settle(recipe, budget, facts)
    costs = estimate(facts, target.recipe, calibration, options.device, weight_files=target.weight_bytes)
    _print(f"{facts.name} can be quantized.", _rows(facts, costs, f"{recipe.method}, {target.bits:g} bits"), facts)
    asked = {"method": recipe.method, "bits": target.bits, "weight_bytes": target.weight_bytes}
    return {**_record(facts), "supported": True, **asked, "estimate": asdict(costs)}


def _packed(folder: Path, name: str, packing: Packing) -> dict[str, Any]:
    """Facts of a model that is packed already: it runs, but cannot be quantized again."""
    from quip_engine.packed import packed_facts  # noqa: PLC0415 - torch takes seconds to import

    facts = packed_facts(folder, name, packing)
    _print(f"{name} is packed: {packing}. It cannot be quantized again.", _packed_rows(facts), facts)
    return {**_record(facts), "supported": False, "reason": f"it is packed already: {packing}", "estimate": None}


def _record(facts: ModelFacts | PackedFacts) -> dict[str, Any]:
    record = facts.to_json()
    record["linear_layers"] = [layer._asdict() for layer in facts.linear_layers]
    record["warnings"] = [{"code": code, "message": message} for code, message in facts.warnings]
    return record


def _rows(facts: ModelFacts, costs: Estimate, recipe: str) -> dict[str, str]:
    return {
        "architecture": facts.architecture,
        "parameters": f"{facts.parameters:,}",
        "blocks": f"{facts.blocks}, width {facts.hidden}, {len(facts.linear_layers)} linear layers",
        "vocabulary, context": f"{facts.vocabulary:,} tokens, {facts.context:,} tokens",
        "stored": f"{facts.bytes / 1e6:,.1f} MB, {facts.dtype}{', tied head' if facts.tied else ''}",
        "licence": facts.licence or "not stated",
        f"with {recipe}": f"{costs.bytes / 1e6:,.1f} MB, {costs.bits_per_weight:.2f} bits per weight",
        "time": f"about {costs.seconds:,.0f} s",
        "memory, disk": f"about {costs.peak_memory / 1e6:,.0f} MB, {costs.disk / 1e6:,.0f} MB while it runs",
    }


def _packed_rows(facts: PackedFacts) -> dict[str, str]:
    layers = f"{len(facts.linear_layers)} linear layers"
    outer = facts.embedding_bits
    embeddings = "" if outer is None else f"; embeddings {outer:.3f}"
    kept = f", {len(facts.kept)} of them not packed" if facts.kept else ""
    return {
        "architecture": facts.architecture,
        "parameters": f"{facts.parameters:,}",
        "blocks": f"{facts.blocks}, {layers}{kept}",
        "format": f"{facts.packing.format}, method {facts.packing.method}",
        "made from": facts.packing.source or "not stated",
        "packed layers": f"{facts.bits_per_weight:.3f} bits per weight, every stored byte counted{embeddings}",
        "stored": f"{facts.bytes / 1e6:,.1f} MB",
        "licence": facts.licence or "not stated",
        "runs packed with": " and ".join(facts.runs_with),
    }


def _print(verdict: str, rows: dict[str, str], facts: ModelFacts | PackedFacts) -> None:
    print(verdict, file=sys.stderr)
    for name, value in rows.items():
        print(f"{name:<24}{value}", file=sys.stderr)
    for code, message in facts.warnings:
        print(f"warning {code}: {message}", file=sys.stderr)
