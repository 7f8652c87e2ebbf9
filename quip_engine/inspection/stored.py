"""One packed layer of a checkpoint, without loading the model around it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from quip_engine.errors import fail
from quip_engine.hf import QuipConfig
from quip_engine.layer import LayerFormat
from quip_engine.probe.folder import weight_files
from quip_engine.probe.headers import read_all


def read_layer(folder: Path, name: str) -> tuple[LayerFormat, dict[str, Tensor]]:
    """How the layer at a module path is stored in a finished checkpoint, and its tensors.

    Raises ``NOT_A_CHECKPOINT``, ``BAD_CHECKPOINT``, and ``BAD_SETTING`` with the reason for a layer that was left out.
    """
    config = _config(folder)
    formats = config.layer_formats()
    if name not in formats:
        reason = config.skipped.get(name, "it has no such layer")
        fail("BAD_SETTING", field="layer", value=name, allowed="a layer that this run quantized", details=reason)
    try:
        files = {key: info.file for key, info in read_all(weight_files(folder)).items() if key.startswith(f"{name}.")}
        tensors = {}
        for key, file in files.items():
            with safe_open(file, framework="pt") as opened:
                tensors[key.removeprefix(f"{name}.")] = opened.get_tensor(key)
    except (OSError, SafetensorError) as error:
        fail("BAD_CHECKPOINT", path=folder, reason="its tensors cannot be read", details=str(error))
    return formats[name], tensors


def _config(folder: Path) -> QuipConfig:
    try:
        record = json.loads((folder / "config.json").read_bytes())["quantization_config"]
        return QuipConfig(**record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(
            "NOT_A_CHECKPOINT",
            path=folder,
            reason="its config.json does not say how layers are stored",
            details=str(error),
        )
