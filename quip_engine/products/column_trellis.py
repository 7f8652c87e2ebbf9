"""Products with the layers of the water-filled trellis (``codebooks/column_trellis``).

    y_r = r_r sum_i (x_i s_i / g(R_i)) value(window of row r in column i)

Strings run down the columns: a thread takes some of the S stretches of rows and goes through all columns, adding
each decoded stretch times one factor to its part of y. ``native/column_trellis.h`` says how a string is read.

| ``activations`` | values                                                                                       |
|-----------------|----------------------------------------------------------------------------------------------|
| ``float``       | looked up, in tables by window; up to 4 bits a step, one look-up gives two steps: a window   |
|                 | of both, L + k bits, in a table of pairs for each k (``native/column_numbered.h``)           |
| ``int8``        | computed, from L = 12 on with AVX-512 VBMI, GFNI and VNNI (``native/column_computed.h``)     |

A product of 8-bit integers would gain nothing: it is the look-ups that take the time. Values that are near the
table's, .44 % of their rms away, can be computed in registers, and take 16 bits; x takes 14.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_trellis import ROW_BITS, ROW_STEP, ColumnTrellis, Sequences, SideInformation, tables
from quip_engine.codebooks.trellis_codes import MULTIPLIERS_LONG
from quip_engine.codebooks.trellis_gaps import source_gain
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

MOST, WIDEST = 4, 16  # bits of the second of two steps in a table, and of the window of both
CURVE_UNITS = 900  # of a computed value in one: the rise of the steepest piece, over all keys, fits 16 bits
CURVE_LEAST = 12  # bits of a state from which on curves are near
SHARE = 2**17  # weights for a thread, at least


class _Layer(ctypes.Structure):
    """``column_layer`` of native/column_trellis.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("codes", "rates", "scales", "row_scales", "base", "powers")),
        *((name, c_void_p) for name in ("row_powers", "inverse_gains", "values", "pairs", "curve")),
        ("unit", c_float),
        *((name, c_int64) for name in ("octets", "m", "n", "T", "S", "L", "group")),
        *((name, c_int64) for name in ("rate_bits", "rate_eighths", "scale_bits", "a", "b", "tail_bits")),
    ]


@products(ColumnTrellis)
class ColumnTrellisProduct(RowProduct):
    """C on a CPU; where values cannot be computed, ``int8`` is multiplied as float."""

    few = 12  # against unpacking to bfloat16, L = 12; at float32 more

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or device.type != "cpu":
            return ""
        compiled.column_product_name.restype = ctypes.c_char_p
        return str(compiled.column_product_name(_computed(codebook, activations)).decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, form, y = library(), _described(layer), torch.empty(len(x), layer.m)
        assert compiled is not None
        rows = (pointer(x), c_int64(len(x)), _computed(layer.codebook, activations), pointer(y))

        def multiply(start: int, stop: int) -> None:
            compiled.column_product(ctypes.byref(form), *rows, c_int64(start), c_int64(stop))

        in_threads(multiply, form.S, _least(form))
        return y

    def together(self, layer: Packed) -> int:
        return Sequences.of(layer.codebook.L, layer.m).T

    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        compiled, form = library(), _described(layer)
        assert compiled is not None
        out, above = (row_zero(W, start), c_int(W.dtype == torch.bfloat16)), start // form.T

        def unpack(first: int, stop: int) -> None:
            compiled.column_unpack(ctypes.byref(form), *out, c_int64(above + first), c_int64(above + stop))

        in_threads(unpack, -(-len(W) // form.T), _least(form))


def _computed(form: Any, activations: str) -> c_int:
    return c_int(activations == "int8" and form.L >= CURVE_LEAST)


def _least(form: _Layer) -> int:
    """Strings of each column for a thread."""
    return 1 + SHARE // (form.T * form.n)


def _described(layer: Packed) -> _Layer:
    form, tensors = layer.codebook, layer.tensors
    trellis, side = Sequences.of(form.L, layer.m), form.side
    constants = _constants(form.L, side)
    return _Layer(
        *(_address(tensors.get(name)) for name in ("codes", "rates", "scales", "row_scales", "base")),
        *(_address(table) for table in constants),
        *(1 / CURVE_UNITS, tensors["codes"].numel(), layer.m, layer.n, trellis.T, trellis.S, form.L, form.group),
        *(side.rate_bits, round(8 * side.rate_step), side.scale_bits, *MULTIPLIERS_LONG, _tail_bits(form.L)),
    )


@lru_cache
def _constants(L: int, side: SideInformation) -> tuple[Tensor | None, ...]:
    """What codes stand for: powers of scales and of row scales, 1 / g by rate, values by window, pairs, the curve."""
    device = torch.device("cpu")
    powers = 2 ** (-side.scale_step * torch.arange(2**side.scale_bits).float())
    row_powers = 2 ** (-ROW_STEP * torch.arange(2**ROW_BITS).float())
    inverse_gains = torch.tensor([1 / source_gain(L, i * side.rate_step) for i in range(2**side.rate_bits)])
    windows = torch.arange(2**L)
    bits = [(windows >> i & 1) << (L - 1 - i) for i in range(L)]  # the first bit is a state's highest
    states = torch.stack(bits).sum(0)
    values = torch.cat([table[states] for table in tables(L, device)])
    return powers, row_powers, inverse_gains, values, _pairs(values[: 2**L], L), _curve(values[: 2**L], states, L)


def _pairs(values: Tensor, L: int) -> Tensor | None:
    """Values of two steps by the window of both, for k = 1 bit and more of the second, one table behind the other."""
    mask, both = 2**L - 1, [torch.arange(2 ** (L + k)) for k in range(1, min(MOST, WIDEST - L) + 1)]
    pairs = [torch.stack([values[at & mask], values[at >> k]], 1) for k, at in enumerate(both, 1)]
    return torch.cat(pairs) if pairs else None


def _tail_bits(L: int) -> int:
    """Steps, not straight pieces, are the outer 2^-tail_bits of the keys on either side: least error at 12 to 16."""
    return 7 if L <= 12 else 8


def _curve(values: Tensor, states: Tensor, L: int) -> Tensor | None:
    """The curve of ``native/column_computed.h``: 128 starts, 128 rises, 64 steps, int16, near values: (2^L,)."""
    if L < CURVE_LEAST:
        return None
    windows, width = torch.arange(2**L), 2 ** (16 - _tail_bits(L))
    a, b = MULTIPLIERS_LONG
    key, values = (a * windows + b * states) % 2**L << (16 - L), values.double() * CURVE_UNITS
    piece, share = key >> 9, key.double() / 2**16
    step = (key + width & 2**16 - 1).clamp(max=2 * width - 1) >> 11 - _tail_bits(L)

    def sums(cells: int, number: Tensor, of: Tensor) -> Tensor:
        return torch.zeros(cells, dtype=torch.float64).index_add_(0, number, of)

    inner = (step == 63).double()
    count, f, v = (sums(128, piece, inner * x) for x in (torch.ones_like(share), share, values))
    centred = inner * (share - (f / count.clamp_min(1))[piece])
    ff, fv = (sums(128, piece, centred * x) for x in (share, values))
    rise = (fv / ff.clamp_min(1e-12)).clamp(0, 2**16 - 1).round()  # least squares
    start = ((v - rise * f) / count.clamp_min(1) + 0.5).round()  # half of what the product rounds down
    rest = values - start[piece] - (key * rise[piece].long() >> 16)
    tail = sums(64, step, (1 - inner) * rest) / sums(64, step, torch.ones_like(rest)).clamp_min(1)
    return torch.cat([start, rise, tail.round()]).long().to(torch.int16)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
