"""Products with layers of the water-filled trellis on CUDA (``native/column_triton``). Not measured on a GPU yet."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_codes import unit, whole_values
from quip_engine.codebooks.column_scales import ROW_STEP, SideInformation
from quip_engine.codebooks.column_trellis import ColumnTrellis, Sequences
from quip_engine.codebooks.trellis_gaps import source_gain
from quip_engine.native import gpu
from quip_engine.products.base import Packed, Product, products

if TYPE_CHECKING:
    from quip_engine.native.column_triton import Columns


@products(ColumnTrellis, device="cuda")
class ColumnTrellisOnCuda(Product):
    """Triton, with float activations."""

    few = gpu.FEW

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        return "Triton" if activations == "float" and gpu.runs_triton(device) else ""

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        from quip_engine.native.column_triton import NARROW, multiply  # noqa: PLC0415 - Triton is optional

        if len(x) > 1 and layer.codebook.group < NARROW:
            return x @ self.unpack(layer, torch.float32).T
        columns = _columns(layer)
        return torch.cat([multiply(columns, some) for some in x.split(gpu.FEW)])

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        from quip_engine.native.column_triton import unpack  # noqa: PLC0415 - Triton is optional

        return unpack(_columns(layer), dtype)


def _columns(layer: Packed) -> Columns:
    from quip_engine.native.column_triton import Columns  # noqa: PLC0415 - Triton is optional

    form, stored = layer.codebook, layer.tensors
    trellis, side = Sequences.of(form.L, layer.m), form.side
    return Columns(
        codes=stored["codes"],
        rates=stored["rates"],
        scales=stored["scales"],
        base=stored["base"],
        row_scales=stored.get("row_scales"),
        table=_mirrored(form.L, layer.device),
        inverse_gains=_inverse_gains(form.L, side, layer.device),
        shape=(layer.m, layer.n),
        sequences=(trellis.S, trellis.T),
        L=form.L,
        group=form.group,
        rate_bits=side.rate_bits,
        step_bits=round(1 / side.rate_step).bit_length() - 1,
        scale_bits=side.scale_bits,
        octave=round(1 / side.scale_step),
        row_octave=round(1 / ROW_STEP),
    )


@lru_cache
def _mirrored(L: int, device: torch.device) -> Tensor:
    """The tables of all codes: (4, 2^L), at the numbers whose bits are those of the state in opposite order."""
    with torch.inference_mode(False):
        x = torch.arange(2**L)
        mirrored = sum((x >> i & 1) << (L - 1 - i) for i in range(L))
        codes = ("levels", "companded", "quantile", "idle")
        return torch.stack([whole_values(L, code)[mirrored] / unit(L, code) for code in codes]).to(device)


@lru_cache
def _inverse_gains(L: int, side: SideInformation, device: torch.device) -> Tensor:
    """1 / g(R) of each rate that can be stored."""
    with torch.inference_mode(False):
        rates = range(2**side.rate_bits)
        return torch.tensor([1 / source_gain(L, rate * side.rate_step) for rate in rates], device=device)
