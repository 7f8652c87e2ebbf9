"""Folders that are packed already: how they say so, and what they say of themselves. Standard library only.

| config.json                                       | the folder is                                             |
|---------------------------------------------------|-----------------------------------------------------------|
| ``quip_params``, its ``codebook`` is "bitshift"   | QTIP as published, ``K`` bits                             |
| ``quip_params``                                   | QuIP# as published, bits by the name of its codebook      |
| ``quantization_config``, ``quant_method`` "quip"  | a checkpoint of ours; its manifest names the original     |

Nothing is proved by that: ``packed`` compares such a folder with its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quip_engine.errors import QuipError
from quip_engine.probe.folder import read_json

METHOD = "quip"  # quant_method of our checkpoints
MANIFEST = "quip_manifest.json"
PUBLISHED = "quip_params"
QTIP = "bitshift"
QUIP_SHARP = {"E8P12": 2, "E8P12RVQ4B": 4, "E8P12RVQ3B": 3}  # codebook: bits


@dataclass(frozen=True)
class Packing:
    """What a packed folder says of itself."""

    format: str  # as people call it
    method: str  # the preset that makes the same here
    bits: float | None  # per weight, as asked for
    bits_per_weight: float | None = None  # of the manifest
    source: str | None = None  # name of the model it was made from

    @property
    def ours(self) -> bool:
        return self.format == OURS

    def __str__(self) -> str:
        words = [self.method if self.ours else self.format]
        if self.bits_per_weight is not None:
            words.append(f"{self.bits_per_weight:.3f} bits per weight")
        elif self.bits is not None:
            words.append(f"{self.bits:g} bits")
        return ", ".join(words + ([f"made from {self.source}"] if self.source else []))


OURS = "QuIP Studio"


def packing_of(config: dict[str, Any], folder: Path) -> Packing | None:
    """What a folder with this config.json says of its packing; None where it is neither a published one nor ours."""
    if PUBLISHED in config:
        return _published(config[PUBLISHED])
    entry = config.get("quantization_config")
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return None
    manifest = _manifest(folder)
    return Packing(
        format=OURS,
        method=_text(entry.get("method")) or "unknown method",
        bits=_number(entry.get("bits")),
        bits_per_weight=_number(manifest.get("bits_per_weight")),
        source=_text(manifest.get("model")),
    )


def _published(params: Any) -> Packing:
    params = params if isinstance(params, dict) else {}
    codebook = params.get("codebook")
    if codebook == QTIP:
        return Packing("QTIP as published", "qtip", _number(params.get("K")))
    return Packing("QuIP# as published", "quip#", QUIP_SHARP.get(codebook) if isinstance(codebook, str) else None)


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; empty for a copy without one, which is as good."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError, QuipError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _number(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1000 else None  # nor NaN


def _text(value: Any) -> str | None:
    return value[:80] if isinstance(value, str) and value else None
