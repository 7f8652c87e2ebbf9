"""Products with uniform grids, one for the whole matrix or one per row and group (``codebooks/grid``).

    y_i = sum_k step_ik sum_{j in group k} (code_ij - zero_ik) x_j

x is laid out once for all rows of W, in chunks that fit the groups; ``native/grid_product.c`` says how, and how codes
are multiplied.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.grid import Grid, RowGrid
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

SHARE = 2**17  # weights for a thread, at least


@products(Grid, RowGrid)
class GridProduct(RowProduct):
    """C on a CPU; 8-bit activations with AVX-512 VNNI, elsewhere they would gain nothing."""

    few = 12  # against unpacking to bfloat16; at float32 30 and more

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or (activations == "int8" and not compiled.grid_has_int8()):
            return ""
        compiled.grid_features.restype = ctypes.c_char_p
        return str(compiled.grid_features().decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, (b, n), m = library(), x.shape, layer.m
        assert compiled is not None
        stored, bits, group = _stored(layer)
        int8 = int(activations == "int8")
        laid_out = torch.empty(b, compiled.grid_room(n, group))
        compiled.grid_lay_out(n, group, int8, b, pointer(x), pointer(laid_out))
        y = torch.empty(b, m)
        there = pointer(laid_out), pointer(y)
        in_threads(
            lambda start, stop: compiled.grid_multiply(*stored, bits, n, group, int8, b, m, start, stop, *there),
            m,
            1 + SHARE // n,
        )
        return y

    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        compiled, m, n = library(), layer.m, layer.n
        assert compiled is not None
        stored, bits, group = _stored(layer)
        there = (row_zero(W, start), None) if W.dtype == torch.float32 else (None, row_zero(W, start))

        def unpack(first: int, stop: int) -> None:
            compiled.grid_unpack(*stored, bits, m, n, group, start + first, start + stop, *there)

        in_threads(unpack, len(W), 1 + SHARE // n)


def _stored(layer: Packed) -> tuple[tuple[ctypes.c_void_p, ...], int, int]:
    """Where codes, scale, steps and zeros lie, those the codebook has; bits; and columns of a group."""
    codebook, tensors = layer.codebook, layer.tensors
    addresses = tuple(pointer(tensors.get(name)) for name in ("codes", "scale", "step", "zero"))
    return addresses, codebook.bits, (codebook.group or layer.n) if isinstance(codebook, RowGrid) else layer.n
