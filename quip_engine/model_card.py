"""The model card of an exported checkpoint: what it is, what it costs, how that was measured, how it is loaded.

Every figure comes from the manifest of the checkpoint or from an evaluation of these very bytes; what was not measured
is not mentioned. Names are those of strangers' folders: they are written as plain text, never as markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quip_engine.methods.registry import presets

LICENCES = re.compile(r"[a-z0-9][a-z0-9.\-]*")  # what the hub takes as an identifier


@dataclass(frozen=True)
class Origin:
    """What the checkpoint was made from. ``hub_id`` is empty for a folder, ``licence`` None where none is stated."""

    name: str
    hub_id: str = ""
    bytes: int | None = None
    licence: str | None = None


def model_card(
    manifest: dict[str, Any],
    config: dict[str, Any],
    origin: Origin,
    *,
    load_from: str,
    evaluation: dict[str, Any] | None = None,
    text: str = "",
) -> str:
    """README.md as Markdown with its YAML head.

    ``manifest`` and ``config``: quip_manifest.json and config.json; ``evaluation``: an ``EvaluationFinished`` record
    of the same bytes and ``text`` the name of its text; ``load_from``: what a reader gives to ``from_pretrained``.
    """
    name, bits = _plain(origin.name), f"{manifest['bits']:g}"
    sections = [
        _head(config, manifest, origin),
        f"# {name}, {bits} bits per weight",
        _summary(manifest, origin),
        "## Load it\n\n" + _loading(config, load_from),
        "## What it costs\n\n" + _costs(manifest, origin, evaluation, _plain(text)),
        "## How it was made\n\n" + _making(manifest, origin),
    ]
    return "\n\n".join(sections) + "\n"


def _head(config: dict[str, Any], manifest: dict[str, Any], origin: Origin) -> str:
    task = "text-generation" if "CausalLM" in _auto(config) else "feature-extraction"
    lines = ["library_name: transformers", f"pipeline_tag: {task}"]
    if origin.hub_id:
        lines += [f"base_model: {json.dumps(origin.hub_id)}", "base_model_relation: quantized"]
    if origin.licence and LICENCES.fullmatch(origin.licence):
        lines.append(f"license: {origin.licence}")
    tags = ["quip", "quantized", manifest["method"], f"{manifest['bits']:g}-bit"]
    return "\n".join(["---", *lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _summary(manifest: dict[str, Any], origin: Origin) -> str:
    preset = presets.get(manifest["method"])
    paper = f" after the paper *{preset.paper}*" if preset.paper else ""
    return (
        f"Made from {_plain(origin.hub_id or origin.name)} by QuIP Studio, method `{manifest['method']}`{paper}.\n"
        f"Its quantized layers take {manifest['bits_per_weight']:.3f} bits per weight, every stored bit counted."
    )


def _auto(config: dict[str, Any]) -> str:
    return next(iter(config.get("auto_map") or {"AutoModelForCausalLM": ""}))


def _loading(config: dict[str, Any], load_from: str) -> str:
    auto = _auto(config)
    return (
        "```python\n"
        "import quip_engine  # registers the format; without it the weights would be random\n"
        f"from transformers import {auto}\n"
        f"model = {auto}.from_pretrained({json.dumps(load_from)})\n"
        "```"
    )


def _costs(manifest: dict[str, Any], origin: Origin, evaluation: dict[str, Any] | None, text: str) -> str:
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    rows = [("Bits per weight of the quantized layers", f"{manifest['bits_per_weight']:.3f}")]
    if embeddings := manifest.get("embeddings"):
        rows.append(("Bits per weight of embeddings and head", f"{embeddings['bits_per_weight']:.3f}"))
    if allocation := manifest.get("allocation"):
        low, high = min(allocation["bits"].values()), max(allocation["bits"].values())
        rows.append(("Bits of single layers", f"{low:.2f} to {high:.2f}, by {allocation['rule']}"))
    times = f"; the original {_size(origin.bytes)}, {origin.bytes / size:.2f} times that" if origin.bytes else ""
    rows.append(("Size on disk", f"{_size(size)}{times}"))
    layers = [layer["rel_proxy"] for layer in manifest["layers"]]
    if layers:
        rows.append((f"Mean relative proxy loss of {len(layers)} layers", f"{sum(layers) / len(layers):.3e}"))
    if evaluation is None:
        return f"{_table(rows)}\n\nPerplexity has not been measured."
    rows += _figures(evaluation["figures"])
    how = (
        f"Measured on {evaluation['tokens']} tokens of {text}: {evaluation['windows']} windows of "
        f"{evaluation['seqlen']} tokens that do not overlap, each scored from nothing, as in the QuIP papers. "
        "Errors are standard errors over windows."
    )
    return f"{_table(rows)}\n\n{how}"


def _figures(figures: dict[str, float | None]) -> list[tuple[str, str]]:
    named = [
        ("Perplexity", "perplexity", "{:.3f}"),
        ("Perplexity of the original", "original_perplexity", "{:.3f}"),
        ("KL to the original, nats per token", "mean_kl", "{:.4f}"),
        ("Same most likely token as the original", "top1_agreement", "{:.4f}"),
    ]
    rows = []
    for label, key, form in named:
        if (value := figures.get(key)) is not None:
            error = figures.get(f"{key}_error")
            rows.append((label, form.format(value) + (f" ± {form.format(error)}" if error is not None else "")))
    return rows


def _making(manifest: dict[str, Any], origin: Origin) -> str:
    recipe, text = manifest["recipe"], manifest.get("calibration", {})
    parts = " × ".join(f"`{_plain(recipe[slot]['name'])}`" for slot in ("transform", "codebook", "rounding"))
    windows = " × ".join(str(n) for n in text.get("windows", []))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    rows = [
        ("Recipe (transform × codebook × rounding)", parts),
        ("Calibration", f"{_plain(str(text.get('source', '')))}, {windows} tokens"),
        ("Seed", str(manifest["seed"])),
        ("Versions", _plain(versions)),
        ("Licence of the original", _plain(origin.licence or "not stated beside it; ask its authors")),
    ]
    kept = manifest.get("skipped") or {}
    of_all = f"{len(kept)} of {len(kept) + len(manifest['layers'])} layers"
    notes = [f"Kept in original precision: {of_all}."] if kept else []
    notes.append("`quip_manifest.json` holds the full recipe, the loss of every layer and the SHA-256 of every file.")
    return "\n\n".join([_table(rows), *notes])


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|--|--|", *(f"| {label} | {value} |" for label, value in rows)])


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _plain(text: str) -> str:
    """Text without what Markdown, HTML or a table would take as markup."""
    return re.sub(r"[\\`*_{}\[\]<>|#]", r"\\\g<0>", " ".join(text.split()))
