"""Products with layers whose outliers are apart (``codebooks/outlier``).

    y_i = sum_j levels_i[code_ij + 2^bits * outlier_ij] x_j

The levels of a row fit into registers; which of its weights are outliers is read from the gaps as the row is
multiplied (``native/outlier.h``), and never stored in any other form.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.gaps import symbols_per_row
from quip_engine.codebooks.outlier import Outlier
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

SHARE = 2**16  # weights for a thread, at least


@products(Outlier)
class OutlierProduct(RowProduct):
    """C on a CPU. Levels are no integers: 8-bit activations would gain nothing, and there are none."""

    few = 10  # against unpacking to bfloat16

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or activations == "int8":
            return ""
        compiled.grid_features.restype = ctypes.c_char_p
        return str(compiled.grid_features().decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, (b, n), m = library(), x.shape, layer.m
        assert compiled is not None
        stored = _stored(layer)
        room = compiled.grid_room(n, n)
        laid_out = torch.empty(b, room)
        compiled.grid_lay_out(n, n, 0, b, pointer(x), pointer(laid_out))
        y = torch.empty(b, m)
        there = pointer(laid_out), room, pointer(y)
        in_threads(
            lambda start, stop: compiled.outlier_multiply(*stored, m, n, b, start, stop, *there), m, 1 + SHARE // n
        )
        return y

    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        compiled, m, n = library(), layer.m, layer.n
        assert compiled is not None
        stored = _stored(layer)
        there = (row_zero(W, start), None) if W.dtype == torch.float32 else (None, row_zero(W, start))

        def unpack(first: int, stop: int) -> None:
            compiled.outlier_unpack(*stored, m, n, start + first, start + stop, *there)

        in_threads(unpack, len(W), 1 + SHARE // n)


def _stored(layer: Packed) -> tuple[ctypes.c_void_p | int, ...]:
    """Where codes, gaps and levels or their ends lie; bits of a code, of a symbol; and symbols of a row."""
    codebook, tensors = layer.codebook, layer.tensors
    addresses = (pointer(tensors.get(name)) for name in ("codes", "gaps", "levels", "ends"))
    symbols = symbols_per_row(layer.n, codebook.ratio, codebook.symbol_bits)
    return *addresses, codebook.bits, codebook.symbol_bits, symbols
