"""Products with the lattice codes: E8P, residual E8P and D4.

    W~ = scale * (p1 + p2 / r)        y = x W~^T

A layer is one or two stages, each a matrix of codes of its own factor, scale or scale / r, and y their sum. A code is
decoded in registers: each weight becomes a nibble that 16 values decode. What AVX-512 does in a few instructions for
64 codes (``native/lattice_avx512.h``), other CPUs do by tables of bytes.

Where there is AVX-512, float activations are multiplied as whole numbers of 24 bits with a scale for every 16 of them:
exact products, added exactly within the 16, cost less than float32 ones and are as near to the truth.

| what                 | tables                                                                                     |
|----------------------|--------------------------------------------------------------------------------------------|
| magnitudes of E8P    | two bits a coordinate, (value - 1/2); as bytes in quarters, with the sign of coordinate 7  |
| signs, shift of E8P  | in registers sums of bits of the code; as bytes by its lower half                          |
| E81B, D4             | points as nibbles, and as bytes in halves                                                  |
"""

from __future__ import annotations

import ctypes
from ctypes import CDLL, c_float, c_int, c_int64, c_void_p
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks import Codebook, d4
from quip_engine.codebooks.d4 import D4
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_points import SIGN_BIT, magnitudes, odd_sums, parity
from quip_engine.codebooks.e8p_rvq import ResidualE8P, e81b
from quip_engine.native import in_threads, library, pointer
from quip_engine.products.base import Packed, RowProduct, products, row_zero

E8P_CODES, TABLE_OF_8, TABLE_OF_4 = range(3)  # kinds of codes, as in native/lattice.h
SHARE = 2**19  # weights for a thread, at least


class Tables(NamedTuple):
    """What codes of one kind stand for; native/lattice.h has the shapes."""

    kind: int
    planes: Tensor  # uint8, the other three int8
    values: Tensor
    points: Tensor
    signs: Tensor | None
    unit: float  # of points


class _Stage(ctypes.Structure):
    """``lattice_stage`` of native/lattice.h."""

    _fields_ = [
        ("kind", c_int64),
        *((name, c_void_p) for name in ("codes", "planes", "values", "points", "signs")),
        ("factor", c_float),
    ]


@products(E8P, D4)
class LatticeProduct(RowProduct):
    """C on a CPU. With AVX-512 ``int8`` activations have 16 bits, as two products of 8; one does for a second stage."""

    few = 16  # against unpacking to bfloat16; at float32 more

    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        compiled = library()
        if compiled is None or device.type != "cpu":
            return ""
        compiled.lattice_kernel.restype = ctypes.c_char_p
        return str(compiled.lattice_kernel().decode())

    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        compiled, stages, (b, n), m = _compiled(), _stages(layer), x.shape, layer.m
        kind, int8 = c_int64(stages[0].kind), c_int(activations == "int8")
        size = compiled.lattice_input_bytes(kind, c_int64(n), int8)
        ready, y = torch.empty(b, size, dtype=torch.uint8), torch.empty(b, m)
        compiled.lattice_input(kind, pointer(x), c_int64(b), c_int64(n), int8, pointer(ready))
        inputs = (c_int64(n), pointer(ready), c_int64(size), int8, c_int64(b), pointer(y), c_int64(m))

        def multiply(start: int, stop: int) -> None:
            compiled.lattice_multiply(stages, c_int64(len(stages)), *inputs, c_int64(start), c_int64(stop))

        in_threads(multiply, m, 1 + SHARE // n)
        return y

    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        compiled, stages = _compiled(), _stages(layer)
        form = (c_int64(len(stages)), c_int64(layer.n), c_int(W.dtype == torch.bfloat16), row_zero(W, start))

        def unpack(first: int, stop: int) -> None:
            compiled.lattice_unpack(stages, *form, c_int64(start + first), c_int64(start + stop))

        in_threads(unpack, len(W), 1 + SHARE // layer.n)


@products(ResidualE8P)
class ResidualProduct(LatticeProduct):
    """Two stages, so twice the work for each row."""

    few = 12


def _compiled() -> CDLL:
    compiled = library()
    assert compiled is not None  # else ``kernel`` names none
    return compiled


def _stages(layer: Packed) -> ctypes.Array[_Stage]:
    """The stages of a layer; its tensors must outlive them."""
    codebook, tensors = layer.codebook, layer.tensors
    scale = float(tensors["scale"])
    if isinstance(codebook, D4):
        stages = [_stage(d4_tables(), tensors["codes"], scale)]
    else:
        stages = [_stage(e8p_tables(), tensors["codes"], scale)]
    if isinstance(codebook, ResidualE8P):
        second = e8p_tables() if codebook.bits == 4 else e81b_tables()
        stages.append(_stage(second, tensors["residual_codes"], scale / codebook.scales.residual))
    return (_Stage * len(stages))(*stages)


def _stage(tables: Tables, codes: Tensor, scale: float) -> _Stage:
    parts: list[Any] = [codes, tables.planes, tables.values, tables.points, tables.signs]
    return _Stage(tables.kind, *map(pointer, parts), scale * tables.unit)


@lru_cache
def e8p_tables() -> Tables:
    cpu = torch.device("cpu")
    with torch.inference_mode(False):
        s, z, nibble = magnitudes(cpu), torch.arange(256), torch.arange(16)
        pairs = [((s[:, first : first + 4] - 0.5).int() << torch.tensor([0, 4, 2, 6])).sum(1) for first in (0, 4)]
        level, sign, minus = nibble & 3, nibble >> 2 & 1, nibble >> 3
        values = (4 * level + 2) * (1 - 2 * sign) + 1 - 2 * minus  # those of level 3 are never used
        points = 4 * s
        points[:, 7] *= 1 - 2 * odd_sums(cpu).float()
        p = parity(z)[:, None]
        negated = -((z[:, None] ^ p) >> torch.tensor(SIGN_BIT) & 1)
        signs = torch.stack([negated, 1 - 2 * p - negated], 1)
        return Tables(
            *(E8P_CODES, torch.stack(pairs).byte(), values.char(), points.char(), signs.char().contiguous(), 0.25)
        )


@lru_cache
def e81b_tables() -> Tables:
    return _tables(TABLE_OF_8, e81b(torch.device("cpu")))


@lru_cache
def d4_tables() -> Tables:
    return _tables(TABLE_OF_4, d4.points(torch.device("cpu")))


def _tables(kind: int, points: Tensor) -> Tables:
    """Of points: (256, d), all halves."""
    with torch.inference_mode(False):
        values, place = (2 * points).char().unique(return_inverse=True)
        planes = (place[:, 0::2] | place[:, 1::2] << 4).T.byte().contiguous()
        return Tables(kind, planes, pad(values, (0, 16 - len(values))), (2 * points).char(), None, 0.5)
