"""Products with the layers of the water-filled trellis (``codebooks/column_trellis``).

    y_r = r_r sum_i (x_i s_i / g(R_i)) value(window of row r in column i)

Strings run down the columns: a thread takes some of the S stretches of rows and goes through all columns, adding
each decoded stretch times one factor to its part of y. ``native/column_trellis.h`` says how a string is read.

Values come from tables in the order of windows. Up to 4 bits a step, one look-up gives two steps: a window of both,
L + k bits, in a table of pairs for each k. Loads are what decoding costs, so this takes half the time, though these
tables do not fit the first cache.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_trellis import ROW_BITS, ROW_STEP, ColumnTrellis, Sequences, SideInformation, tables
from quip_engine.codebooks.trellis_gaps import source_gain
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, Product, products

WIDEST = 16  # bits of a window of two steps


class _Layer(ctypes.Structure):
    """``column_layer`` of native/column_trellis.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("codes", "rates", "scales", "row_scales", "base", "powers")),
        *((name, c_void_p) for name in ("row_powers", "inverse_gains", "values", "pairs")),
        *((name, c_int64) for name in ("octets", "m", "n", "T", "S", "L", "group")),
        *((name, c_int64) for name in ("rate_bits", "rate_eighths", "scale_bits")),
    ]


@products(ColumnTrellis)
class ColumnTrellisProduct(Product):
    """C on a CPU; 8-bit activations gain nothing where sums run over columns, and are multiplied as float."""

    few = 4

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        return "C" if device.type == "cpu" and library() is not None else ""

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, form = library(), _described(layer)
        assert compiled is not None
        y = torch.empty(len(x), layer.m)
        rows = (pointer(x), c_int64(len(x)), pointer(y))

        def multiply(start: int, stop: int) -> None:
            compiled.column_product(ctypes.byref(form), *rows, c_int64(start), c_int64(stop))

        in_threads(multiply, form.S)
        return y

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        compiled, form = library(), _described(layer)
        assert compiled is not None
        W = torch.empty(layer.n, layer.m, dtype=dtype)

        def unpack(start: int, stop: int) -> None:
            half = ctypes.c_int(dtype == torch.bfloat16)
            compiled.column_unpack(ctypes.byref(form), pointer(W), half, c_int64(start), c_int64(stop))

        in_threads(unpack, form.S)
        return W.T


def _described(layer: Packed) -> _Layer:
    form, tensors = layer.codebook, layer.tensors
    trellis, side = Sequences.of(form.L, layer.m), form.side
    constants = _constants(form.L, side)
    return _Layer(
        *(_address(tensors.get(name)) for name in ("codes", "rates", "scales", "row_scales", "base")),
        *(_address(table) for table in constants),
        *(tensors["codes"].numel(), layer.m, layer.n, trellis.T, trellis.S, form.L, form.group),
        *(side.rate_bits, round(8 * side.rate_step), side.scale_bits),
    )


@lru_cache
def _constants(L: int, side: SideInformation) -> tuple[Tensor | None, ...]:
    """What codes stand for: powers of scales, of row scales, 1 / g by rate, values by window, and of pairs."""
    device = torch.device("cpu")
    powers = 2 ** (-side.scale_step * torch.arange(2**side.scale_bits).float())
    row_powers = 2 ** (-ROW_STEP * torch.arange(2**ROW_BITS).float())
    inverse_gains = torch.tensor([1 / source_gain(L, i * side.rate_step) for i in range(2**side.rate_bits)])
    windows = torch.arange(2**L)
    states = sum((windows >> i & 1) << (L - 1 - i) for i in range(L))  # the first bit is a state's highest
    values = torch.cat([table[states] for table in tables(L, device)])
    return powers, row_powers, inverse_gains, values, _pairs(values[: 2**L], L)


def _pairs(values: Tensor, L: int) -> Tensor | None:
    """Values of two steps by the window of both, for k = 1 bit and more of the second, one table behind the other."""
    mask, both = 2**L - 1, [torch.arange(2 ** (L + k)) for k in range(1, WIDEST - L + 1)]
    pairs = [torch.stack([values[at & mask], values[at >> k]], 1) for k, at in enumerate(both, 1)]
    return torch.cat(pairs) if pairs else None


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
