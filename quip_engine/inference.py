"""How a loaded model multiplies: what its packed layers run on, and what is done where there is nothing for them.

| device has           | products of single tokens                                                       |
|----------------------|---------------------------------------------------------------------------------|
| kernels              | from the codes, on the fly                                                      |
| none, memory to hold | W~ unpacked once, and kept beside the codes, if it takes half of what is free   |
| none, no memory      | each layer unpacked at each token, and dropped: slow                            |

The last two are never silent: ``running`` says so, and the command line and the app show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from quip_engine import native
from quip_engine.config import ACTIVATIONS
from quip_engine.errors import fail
from quip_engine.linear import QuantizedLinear, share_inputs

SHARE = 0.5  # of the free memory that unpacked layers may take


@dataclass(frozen=True)
class Running:
    """What the packed layers of a model run on."""

    kernels: tuple[str, ...]  # ``e8p: AVX-512 VBMI``, each once; empty for a dense model
    fallback: str = ""  # a sentence, where some layers have no kernel

    def __str__(self) -> str:
        return "; ".join([*self.kernels, *([self.fallback] if self.fallback else [])]) or "torch, dense weights"


def prepare(model: nn.Module, activations: str = ACTIVATIONS[0]) -> Running:
    """Settle how the packed layers of a model multiply on the device they are on. Raises ``BAD_SETTING``."""
    if activations not in ACTIVATIONS:
        fail("BAD_SETTING", field="activations", value=repr(activations), allowed=" or ".join(ACTIVATIONS))
    layers = list(_packed_layers(model))
    share_inputs(model)
    for layer in layers:
        layer.activations = activations
        if not layer.kernel():  # those that cannot take 8-bit activations take floats
            layer.activations = ACTIVATIONS[0]
    helpless = [layer for layer in layers if not layer.kernel() and not layer.unpacked_bytes]
    dtype = _dtype(model)
    if sum(layer.in_features * layer.out_features for layer in helpless) * dtype.itemsize <= SHARE * _free(model):
        for layer in helpless:
            layer.unpack_(dtype)
    return running(model)


def running(model: nn.Module) -> Running:
    """What the packed layers of a prepared model run on now."""
    kernels, helpless = set(), []
    for layer in _packed_layers(model):
        if kernel := layer.kernel():
            suffix = ", 8-bit activations" if layer.activations == "int8" else ""
            kernels.add(f"{layer.format.codebook.name}: {kernel}{suffix}")
        else:
            helpless.append(layer)
    return Running(tuple(sorted(kernels)), _fallback(helpless) if helpless else "")


def _fallback(layers: list[QuantizedLinear]) -> str:
    codebooks = ", ".join(sorted({layer.format.codebook.name for layer in layers}))
    device = layers[0].packed().device.type
    why = native.status() if device == "cpu" and native.library() is None else f"no kernel for {codebooks} on {device}"
    size = sum(layer.unpacked_bytes for layer in layers)
    if size:
        return f"{why}, so {len(layers)} layers were unpacked once: {size / 1e9:.2g} GB beside their codes"
    return f"{why}, and too little memory to unpack {len(layers)} layers: each is decoded at each token, which is slow"


def _packed_layers(model: nn.Module) -> Iterator[QuantizedLinear]:
    return (module for module in model.modules() if isinstance(module, QuantizedLinear))


def _dtype(model: nn.Module) -> torch.dtype:
    """Of the model's activations."""
    dtype = getattr(model, "dtype", torch.float32)
    return dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32


def _free(model: nn.Module) -> int:
    """Bytes of free memory where the model is."""
    device = next((p.device for p in model.parameters() if p.device.type == "cuda"), None)
    return torch.cuda.mem_get_info(device)[0] if device else psutil.virtual_memory().available
