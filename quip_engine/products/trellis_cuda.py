"""Products with trellis-coded tiles on CUDA (``native/trellis_triton``). Not measured on a GPU yet."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.published_trellis import PublishedTrellis
from quip_engine.codebooks.trellis import Trellis
from quip_engine.codebooks.trellis_codes import code_rms, code_table, hybrid_pairs, hybrid_values
from quip_engine.native import gpu
from quip_engine.products.base import Packed, Product, products

if TYPE_CHECKING:
    from quip_engine.native.trellis_triton import Code

COMPUTED = ("1mad", "3inst", "mul1")  # from the state alone


@products(Trellis, PublishedTrellis, device="cuda")
class TrellisOnCuda(Product):
    """Triton, with float activations."""

    few = gpu.FEW

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        return "Triton" if activations == "float" and gpu.runs_triton(device) else ""

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        from quip_engine.native.trellis_triton import multiply  # noqa: PLC0415 - Triton is optional

        codes, scale, code = layer.tensors["codes"], layer.tensors["scale"], _code(layer)
        return torch.cat([multiply(codes, code, scale, layer.m, some) for some in x.split(gpu.FEW)])

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        from quip_engine.native.trellis_triton import unpack  # noqa: PLC0415 - Triton is optional

        return unpack(layer.tensors["codes"], _code(layer), layer.tensors["scale"], layer.m, layer.n, dtype)


def _code(layer: Packed) -> Code:
    from quip_engine.native.trellis_triton import Code  # noqa: PLC0415 - Triton is optional

    codebook = layer.codebook
    if isinstance(codebook, PublishedTrellis):
        return Code("hyb", codebook.bits, 16, 2, layer.tensors["table"], 1.0, published=True)
    table, unit = _values(codebook.code, codebook.L, layer.device)
    name = codebook.code if codebook.code in (*COMPUTED, "hyb") else "table"
    return Code(name, codebook.bits, codebook.L, 2 if name == "hyb" else 1, table, unit)


@lru_cache
def _values(name: str, L: int, device: torch.device) -> tuple[Tensor, float]:
    """The table that states of a code are looked up in, and what its values count with."""
    with torch.inference_mode(False):
        if name in COMPUTED:
            return torch.empty(1, device=device), 1 / code_rms(name, L)
        if name == "hyb":
            pairs = hybrid_pairs()
            return pairs.to(device), 1 / float(hybrid_values(pairs, L).double().square().mean().sqrt())
        return code_table(name, L).to(device), 1.0
