"""Products with the published trellis (``codebooks/published_trellis``); ``native/published_trellis.c`` says how."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.published_trellis import STEPS, PublishedTrellis
from quip_engine.codebooks.trellis import TILE, tiles
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, Product, products

SPREAD = 2 * TILE  # numbers of x for a tile, as the kernel wants them
SHARE = 2**9  # tiles for a thread, at least


class _Layer(ctypes.Structure):
    """``published_layer`` of native/published_trellis.c."""

    _fields_ = [
        *((name, c_void_p) for name in ("codes", "table", "scale")),
        *((name, c_int64) for name in ("k", "m", "n")),
    ]


@products(PublishedTrellis)
class PublishedTrellisProduct(Product):
    """C on a CPU; 8-bit activations would gain nothing, as look-ups are the work."""

    few = 32  # as fast as unpacking to bfloat16 at 64; to float32 later

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or activations != "float":
            return ""
        compiled.published_features.restype = ctypes.c_char_p
        return str(compiled.published_features().decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, b, form = library(), len(x), _described(layer)
        assert compiled is not None
        spread, y = torch.empty(b, tiles(layer.n), SPREAD), torch.empty(b, layer.m)
        compiled.published_spread(pointer(x), c_int64(b), c_int64(layer.n), pointer(spread))

        def multiply(start: int, stop: int) -> None:
            sums, rows = torch.empty(b, STEPS), (c_int64(start), c_int64(stop))
            compiled.published_multiply(
                ctypes.byref(form), pointer(spread), c_int64(b), pointer(y), pointer(sums), *rows
            )

        in_threads(multiply, tiles(layer.m), 1 + SHARE // tiles(layer.n))
        return y

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        compiled, form = library(), _described(layer)
        assert compiled is not None
        W = torch.empty(tiles(layer.m) * TILE, tiles(layer.n) * TILE, dtype=dtype)

        def unpack(start: int, stop: int) -> None:
            half = c_int(dtype == torch.bfloat16)
            compiled.published_unpack(ctypes.byref(form), pointer(W), half, c_int64(start), c_int64(stop))

        in_threads(unpack, tiles(layer.m), 1 + SHARE // tiles(layer.n))
        return W[: layer.m, : layer.n]


def _described(layer: Packed) -> _Layer:
    addresses = (pointer(layer.tensors[name]) for name in ("codes", "table", "scale"))
    return _Layer(*addresses, layer.codebook.bits, layer.m, layer.n)
