"""Products with the layers of the water-filled trellis (``codebooks/column_trellis``).

    y_r = r_r sum_i (x_i s_i / g(R_i)) value(window of row r in column i)

Strings run down the columns: a thread takes some of the S stretches of rows and goes through all columns, adding
each decoded stretch times one factor to its part of y. ``native/column_trellis.h`` says how a string is read.

| R, bits | with AVX-512 VBMI, GFNI and VNNI                              | elsewhere                            |
|---------|---------------------------------------------------------------|--------------------------------------|
| to 5    | levels of 8 bits, computed, and multiplied as integers by     | values looked up, by window; where   |
|         | three digits of 8 bits of x, or by two for ``int8``           | two steps take few bits, two at once |
| above   | values looked up, by window                                   |                                      |

Three digits are as exact as float32, and two have errors of 1e-4: bytes of x alone would gain a few percent only.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_codes import COMPANDED_TO, LEVELS_TO, code_of, level_tables, unit, whole_values
from quip_engine.codebooks.column_scales import ROW_BITS, ROW_STEP, SideInformation
from quip_engine.codebooks.column_trellis import ColumnTrellis, Sequences
from quip_engine.codebooks.trellis_gaps import source_gain
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

WIDEST = 16  # bits of the window of two steps
DIGITS = {"float": 3, "int8": 2}  # of x
SHARE = 2**17  # weights for a thread, at least


class _Layer(ctypes.Structure):
    """``column_layer`` of native/column_trellis.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("codes", "rates", "scales", "row_scales", "base", "powers")),
        *((name, c_void_p) for name in ("row_powers", "inverse_gains", "values", "pairs", "levels")),
        *((name, c_int64) for name in ("octets", "m", "n", "T", "S", "L", "group")),
        *((name, c_int64) for name in ("rate_bits", "rate_eighths", "scale_bits", "levels_to", "companded_to")),
    ]


@products(ColumnTrellis)
class ColumnTrellisProduct(RowProduct):
    """C on a CPU; where levels cannot be computed, ``int8`` is multiplied as float."""

    few = 12  # against unpacking to bfloat16, L = 12; at float32 more

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or device.type != "cpu":
            return ""
        compiled.column_product_name.restype = ctypes.c_char_p
        return str(compiled.column_product_name().decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, form, y = library(), _described(layer), torch.empty(len(x), layer.m)
        assert compiled is not None
        rows = (pointer(x), c_int64(len(x)), c_int(DIGITS[activations]), pointer(y))

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
        *(tensors["codes"].numel(), layer.m, layer.n, trellis.T, trellis.S, form.L, form.group),
        *(side.rate_bits, round(8 * side.rate_step), side.scale_bits, 8 * LEVELS_TO, 8 * COMPANDED_TO),
    )


@lru_cache
def _constants(L: int, side: SideInformation) -> tuple[Tensor | None, ...]:
    """What codes stand for: powers of scales and of row scales, factors by rate, values by window, pairs, levels."""
    powers = 2 ** (-side.scale_step * torch.arange(2**side.scale_bits).float())
    row_powers = 2 ** (-ROW_STEP * torch.arange(2**ROW_BITS).float())
    rates = [i * side.rate_step for i in range(2**side.rate_bits)]
    inverse_gains = torch.tensor([1 / (source_gain(L, rate) * unit(L, code_of(rate))) for rate in rates])
    values = [whole_values(L, code)[_mirrored(L)] for code in ("levels", "companded", "quantile", "idle")]
    pairs = [_pair(values[code], L, k) for code, k in ((0, 1), (0, 2), (0, 3), (1, 3), (1, 4)) if L + k <= WIDEST]
    both = torch.cat(pairs) if pairs else None
    return powers, row_powers, inverse_gains, torch.cat(values), both, level_tables()


def _mirrored(L: int) -> Tensor:
    """The state of each window: (2^L,), whose first bit is the state's highest, and lowest here."""
    windows = torch.arange(2**L)
    return sum((windows >> i & 1) << (L - 1 - i) for i in range(L))  # type: ignore[return-value]


def _pair(values: Tensor, L: int, k: int) -> Tensor:
    """Values of two steps by the window of both, k bits being the second one's: (2^(L + k), 2)."""
    both = torch.arange(2 ** (L + k))
    return torch.stack([values[both & 2**L - 1], values[both >> k]], 1)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
