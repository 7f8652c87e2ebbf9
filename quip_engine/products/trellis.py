"""Products with trellis tiles (``codebooks/trellis``, QTIP, arXiv 2406.11235, section 3).

    y_i = s sum_j value(state_ij) x_j        state: a window of L bits of the tile's circular string

Any state is read by itself, so rows of W are decoded along all tiles, in registers. What a state stands for is

| code                       | AVX-512                                                  | other CPUs                 |
|----------------------------|----------------------------------------------------------|----------------------------|
| ``levels``                 | computed, and multiplied as whole numbers (VBMI)         | looked up                  |
| ``1mad``, ``mul1``         | computed; with 8-bit activations never even formed       | looked up                  |
| ``3inst``                  | computed                                                 | looked up                  |
| the others                 | looked up                                                | looked up                  |

Looking up costs loads; so up to L + k = 16 the table holds what two neighbours stand for, by the window of both.
``native/trellis_states.h``, ``native/trellis_int8.c`` and, for ``levels``, ``native/trellis_levels.h`` say how.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.trellis import TILE, Trellis, tiles
from quip_engine.codebooks.trellis_codes import code_rms, code_table, gaussian_levels
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

ONE_EACH, TWO_EACH = 0, 1  # ways of native/trellis_states.h
COMPUTED = {"1mad": 2, "mul1": 3, "3inst": 4, "levels": 5}
INTEGERS = ("1mad", "mul1", "levels")  # codes that 8-bit activations make faster
DIGITS = {"float": 3, "int8": 1}  # of 8 bits each, of activations that levels are multiplied by
WIDEST = 16  # bits of a window of two weights
SHARE = 2**17  # weights for a thread, at least


@products(Trellis)
class TrellisProduct(RowProduct):
    """C on a CPU. 8-bit activations for whole numbers and AVX-512; elsewhere they would gain nothing."""

    few = 12  # measured where values are computed: against unpacking to bfloat16 12 or 13, at float32 24 and more

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        assert isinstance(codebook, Trellis)
        features = _features(compiled, codebook.code) if compiled is not None else ""
        if compiled is None or (activations == "int8" and not (features and codebook.code in INTEGERS)):
            return ""
        return features or "C"

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, (b, n), m = library(), x.shape, layer.m
        assert compiled is not None
        x = pad(x, (0, -n % TILE)) if n % TILE else x
        y = torch.empty(b, m)
        stored, given = _stored(compiled, layer), (pointer(x), c_int64(n), c_int64(b))
        kernel, code = compiled.trellis_product, layer.codebook.code
        if code == "levels" and _features(compiled, code):
            kernel, digits = compiled.trellis_levels, DIGITS[activations]
            stored = *stored, digits
            laid_out = torch.empty(b * compiled.trellis_levels_bytes(c_int64(n), digits), dtype=torch.uint8)
            compiled.trellis_levels_lay_out(*given, digits, pointer(laid_out))
            x = laid_out
        elif activations == "int8":
            kernel = compiled.trellis_int8
            laid_out = torch.empty(b * (compiled.trellis_int8_bytes(c_int64(n)) + 4), dtype=torch.uint8)
            compiled.trellis_int8_lay_out(*given, pointer(laid_out))
            x = laid_out
        rows = pointer(x), c_int64(b), pointer(y)
        in_threads(lambda start, stop: kernel(*stored, *rows, c_int64(start), c_int64(stop)), tiles(m), _least(n))
        return y

    def together(self, layer: Packed) -> int:
        return TILE

    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        compiled, above = library(), start // TILE
        assert compiled is not None
        stored, out = _stored(compiled, layer), (row_zero(W, start), int(W.dtype == torch.bfloat16))

        def unpack(first: int, stop: int) -> None:
            compiled.trellis_unpack(*stored, *out, c_int64(above + first), c_int64(above + stop))

        in_threads(unpack, tiles(len(W)), _least(layer.n))


def _least(n: int) -> int:
    """Rows of tiles for a thread."""
    return 1 + SHARE // (TILE * n)


@lru_cache
def _features(compiled: ctypes.CDLL, code: str) -> str:
    """What a code is computed with; empty where it is looked up."""
    if code not in COMPUTED:
        return ""
    features = compiled.trellis_levels_features if code == "levels" else compiled.trellis_features
    features.restype = ctypes.c_char_p
    return str(features().decode())


def _stored(compiled: ctypes.CDLL, layer: Packed) -> tuple[object, ...]:
    """The arguments of a kernel that a layer makes."""
    form: Trellis = layer.codebook
    way, L, table, unit = _values(form.code, form.L, form.bits, bool(_features(compiled, form.code)))
    codes, scale = layer.tensors["codes"], layer.tensors["scale"]
    arrays = pointer(table), pointer(scale), ctypes.c_float(unit)
    return pointer(codes), c_int64(layer.m), c_int64(layer.n), way, form.bits, L, *arrays


@lru_cache(maxsize=32)
def _values(code: str, L: int, k: int, computes: bool) -> tuple[int, int, Tensor | None, float]:
    """Way, bits of a window, table: (2^bits, 1 or 2) or levels, and the unit that its or the computed values have."""
    if computes:
        return COMPUTED[code], L, gaussian_levels() if code == "levels" else None, 1 / code_rms(code, L)
    table = code_table(code, L)
    if table.shape[1] == 2:
        return TWO_EACH, L, table.contiguous(), 1.0
    if L + k > WIDEST:
        return ONE_EACH, L, table.contiguous(), 1.0
    windows = torch.arange(2 ** (L + k))
    return TWO_EACH, L + k, torch.cat([table[windows >> k], table[windows & 2**L - 1]], 1), 1.0
