"""Products with the layers of E8P and its residual form on CUDA (``native/e8p_triton``). Not measured on a GPU yet."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_points import DIMENSION, points
from quip_engine.codebooks.e8p_rvq import ResidualE8P, e81b
from quip_engine.native import gpu
from quip_engine.products.base import Packed, Product, products


@products(E8P, ResidualE8P, device="cuda")
class LatticeOnCuda(Product):
    """Triton, with float activations."""

    few = gpu.FEW

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        return "Triton" if activations == "float" and gpu.runs_triton(device) else ""

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        from quip_engine.native.e8p_triton import multiply  # noqa: PLC0415 - Triton is optional

        parts = _parts(layer)
        return torch.cat([multiply(*parts, some) for some in x.split(gpu.FEW)])

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        from quip_engine.native.e8p_triton import unpack  # noqa: PLC0415 - Triton is optional

        return unpack(*_parts(layer), layer.n, dtype)


def _parts(layer: Packed) -> tuple[Tensor, Tensor | None, Tensor, Tensor, float]:
    """Codes, residual codes, tables, scale, and how large the units of the residual are."""
    residual, scale, codebook = layer.tensors.get("residual_codes"), layer.tensors["scale"], layer.codebook
    inverse_r = 1 / codebook.scales.residual if isinstance(codebook, ResidualE8P) else 0.0
    return layer.tensors["codes"], residual, nibbles(layer.device), scale, inverse_r


@lru_cache
def nibbles(device: torch.device) -> Tensor:
    """Points as words of eight nibbles: (3, 256) int32.

    The word of an E8P code is the exclusive or of one from the first row, by its upper byte, and one from the second,
    by its lower. The third row has E81B.
    """
    with torch.inference_mode(False):
        cpu = torch.device("cpu")
        e8p = _words(2 * points(cpu) + 7.5).view(256, 256)
        return torch.stack([e8p[:, 0], e8p[0] ^ e8p[0, 0], _words(2 * e81b(cpu) + 8)]).to(torch.int32).to(device)


def _words(numbers: Tensor) -> Tensor:
    """(N,) int64 of eight numbers from 0 to 15 each: (N, 8)."""
    return (numbers.long() << 4 * torch.arange(DIMENSION)).sum(1)
