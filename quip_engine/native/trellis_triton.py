"""Products with trellis-coded tiles on CUDA, in Triton: states are windows of a tile's bits, shifted out of two words.

    y_r = scale sum_c value(state_rc) x_c        state of weight t: the L bits that end at bit (t + 1) k of the tile

A tile is 8 k words of 32 bits, and k words hold 32 weights of two rows: a lane takes such a unit, with the word before
it, and where each of the 32 windows lies is known when the kernel is compiled. States are turned into values by
arithmetic alone (1mad, 3inst, mul1), by two look-ups in 4 KB (hyb) or one in the table of all states, which at L = 12
has 16 KB and stays in the first cache. A unit is, of ``trellis``, rows 2 p and 2 p + 1, one after the other; of the
published order (``codebooks/published_trellis``), rows p and p + 8, by its bits.

One row of x is multiplied and added by lanes; 2 to 16 rows go through tensor cores (``gpu_dot``). The width is divided
into shares by its shape alone, whose sums are added in order: the same inputs give the same bits.

Not measured on a GPU yet; the tests run it in Triton's interpreter, and compile it.
"""

# ruff: noqa: PLR0917 - a kernel takes its arguments by position
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.native.gpu import shares
from quip_engine.native.gpu_dot import product

TILE = 16
DOWN = 8  # tiles below each other that a program takes
ACROSS, ACROSS_MANY = 8, 16  # and side by side, at a time
STAGES = 1  # with more, what 64 products a turn need would be fetched ahead, which few GPUs have the memory for
MUL1_A, MUL1_B = tl.constexpr(0.00676727294921875), tl.constexpr(-10.3828125)


class Code(NamedTuple):
    """How states become values."""

    name: str  # 1mad, 3inst, mul1, hyb, or table
    bits: int  # k, per weight
    L: int
    V: int  # weights of a state
    table: Tensor  # (512, 2) of hyb, or (2^L, V) float32; anything for the other codes
    unit: float  # what values count with
    published: bool = False  # order within a tile


def multiply(codes: Tensor, code: Code, scale: Tensor, m: int, x: Tensor) -> Tensor:
    """y: (b, m) of x: (b, n), b <= 16, both float32.

    ``codes``: (ceil(m / 16), ceil(n / 16), 32 k) uint8; ``scale``: (1,).
    """
    (down, across, _), (b, n), many = codes.shape, x.shape, len(x) > 1
    at_a_time = ACROSS_MANY if many else ACROSS
    count, share = shares(triton.cdiv(down, DOWN), across, at_a_time)
    y = torch.empty(count, b, m, device=x.device)
    if n < across * TILE:
        x = pad(x, (0, across * TILE - n))
    strides = (across * TILE, TILE, 1)
    if many:  # a plane for each column of the tiles
        x = x.view(b, across, TILE).transpose(1, 2).contiguous()
        strides = (across * TILE, 1, across)
    sizes = (m, down, across, share, b, *strides, code.unit)
    grid = (triton.cdiv(down, DOWN), count)
    kind = {"MANY": many, "DOWN": DOWN, "ACROSS": at_a_time, "num_stages": STAGES, "enable_fp_fusion": True}
    _multiply[grid](codes.view(torch.int32), code.table, x, scale, y, *sizes, **_kind(code), **kind)
    return y[0] if count == 1 else y.sum(0)


def unpack(codes: Tensor, code: Code, scale: Tensor, m: int, n: int, dtype: torch.dtype) -> Tensor:
    """W~: (m, n) in ``dtype``."""
    W = torch.empty(m, n, dtype=dtype, device=codes.device)
    grid = (codes.shape[0], triton.cdiv(codes.shape[1], ACROSS))
    sizes = (m, n, codes.shape[1], code.unit)
    kind = {"ACROSS": ACROSS, "enable_fp_fusion": True}
    _unpack[grid](codes.view(torch.int32), code.table, scale, W, *sizes, **_kind(code), **kind)
    return W


def _kind(code: Code) -> dict[str, object]:
    return {"K": code.bits, "L": code.L, "V": code.V, "CODE": code.name, "PUBLISHED": code.published}


@triton.jit
def _big_endian(word):
    """The first byte as the highest."""
    word = word.to(tl.uint32, bitcast=True)
    return (word << 24) | ((word & 0xFF00) << 8) | ((word >> 8) & 0xFF00) | (word >> 24)


@triton.jit
def _word(at, K: tl.constexpr, INDEX: tl.constexpr, inside):
    """A word of the units whose first ones are pointed at; where there are less, the last."""
    return _big_endian(tl.load(at + min(INDEX, K - 1), mask=inside, other=0))


@triton.jit
def _state(before, a, b, c, d, END: tl.constexpr, L: tl.constexpr):
    """The window of L bits that ends at bit END of the words a to d."""
    word: tl.constexpr = (END - 1) // 32
    shift: tl.constexpr = 31 - (END - 1) % 32
    own = a if word == 0 else b if word == 1 else c if word == 2 else d
    window = own >> shift
    if shift + L > 32:
        window |= (before if word == 0 else a if word == 1 else b if word == 2 else c) << (32 - shift)
    return window & (2**L - 1)


@triton.jit
def _byte_sum(y):
    pairs = (y & 0xFF00FF) + ((y >> 8) & 0xFF00FF)
    return (pairs * 0x10001) >> 16


@triton.jit
def _float(number, LESS: tl.constexpr):
    """Of a uint32 below 2^23, less a constant; faster than a conversion."""
    return (number | 0x4B000000).to(tl.float32, bitcast=True) - (0x800000 + LESS)


@triton.jit
def _value(state, v, table, CODE: tl.constexpr, V: tl.constexpr):
    """Number v of a state's values, as they are defined in ``codebooks/trellis_codes``."""
    if CODE == "1mad":
        value = _float(_byte_sum(state * 34038481 + 76625530), 510)
    elif CODE == "mul1":
        value = (_float(_byte_sum(state * 0x83DCD12D), -1024) * MUL1_A + MUL1_B).to(tl.float16).to(tl.float32)
    elif CODE == "3inst":
        y = ((state * 89226354 + 64248484) & 0x8FFF8FFF) ^ 0x3B603B60
        upper = (y >> 16).to(tl.uint16).to(tl.float16, bitcast=True)
        value = (upper + (y & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True)).to(tl.float32)
    elif CODE == "hyb":
        h = state * (state + 1)
        bits = tl.load(table + ((h >> 6) & 511) * 2 + v).to(tl.float32).to(tl.uint32, bitcast=True)
        value = (bits ^ (((h >> 15) & (1 - v)) << 31)).to(tl.float32, bitcast=True)
    else:
        value = tl.load(table + state * V + v)
    return value


@triton.jit
def _multiply(
    words,
    table,
    x,
    scale,
    y,
    m,
    down,
    across,
    share,
    rows,
    x_row,
    x_tile,
    x_column,
    unit,
    K: tl.constexpr,
    L: tl.constexpr,
    V: tl.constexpr,
    CODE: tl.constexpr,
    PUBLISHED: tl.constexpr,
    MANY: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """One share of the width of some rows of tiles. The two rows of a unit have sums of their own."""
    lane = tl.arange(0, 8 * DOWN)
    tile_row, p = tl.program_id(0) * DOWN + lane // 8, lane % 8
    part = tl.program_id(1)
    many = tl.arange(0, 16)
    FITS: tl.constexpr = CODE != "table" and (CODE != "hyb" or PUBLISHED)  # values are float16 numbers
    first = tl.zeros((8 * DOWN, 16), tl.float32) if MANY else tl.zeros((ACROSS, 8 * DOWN), tl.float32)
    second = first
    for start in range(part * share, tl.minimum(part * share + share, across), ACROSS):
        tile = start + tl.arange(0, ACROSS)
        inside = (tile < across)[:, None] & (tile_row < down)[None, :]
        at = words + (tile_row.to(tl.int64)[None, :] * across + tile[:, None]) * (8 * K)
        before = _big_endian(tl.load(at + ((p + 7) % 8 * K + K - 1)[None, :], mask=inside, other=0))
        unit_at = at + (p * K)[None, :]
        a, b = _word(unit_at, K, 0, inside), _word(unit_at, K, 1, inside)
        c, d = _word(unit_at, K, 2, inside), _word(unit_at, K, 3, inside)
        for column in tl.static_range(16):
            i = (column // 2 % 4 * 8 + column // 8 * 4 + column % 2) if PUBLISHED else column
            later = i + (2 if PUBLISHED else 16)
            v = _value(_state(before, a, b, c, d, K * V * (i // V + 1), L), i % V, table, CODE, V)
            w = _value(_state(before, a, b, c, d, K * V * (later // V + 1), L), later % V, table, CODE, V)
            x_at = x + tile * x_tile + column * x_column
            if MANY:
                there = (tile < across)[:, None] & (many < rows)[None, :]
                z = tl.load(x_at[:, None] + (many * x_row)[None, :], mask=there, other=0.0)
                first = product(tl.trans(v), z, first, FITS, False)
                second = product(tl.trans(w), z, second, FITS, False)
            else:
                z = tl.load(x_at, mask=tile < across, other=0.0)[:, None]
                first += v * z
                second += w * z
    factor = tl.load(scale) * unit
    row = tile_row * 16 + (p if PUBLISHED else 2 * p)
    later = row + (8 if PUBLISHED else 1)
    if MANY:
        to = y + (part * rows + many)[None, :] * m
        inside = (many < rows)[None, :]
        tl.store(to + row[:, None], first * factor, mask=inside & (row < m)[:, None])
        tl.store(to + later[:, None], second * factor, mask=inside & (later < m)[:, None])
    else:
        tl.store(y + part * m + row, tl.sum(first, 0) * factor, mask=row < m)
        tl.store(y + part * m + later, tl.sum(second, 0) * factor, mask=later < m)


@triton.jit
def _unpack(
    words,
    table,
    scale,
    W,
    m,
    n,
    across,
    unit,
    K: tl.constexpr,
    L: tl.constexpr,
    V: tl.constexpr,
    CODE: tl.constexpr,
    PUBLISHED: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """Some tiles side by side, each weight by itself."""
    r = tl.arange(0, 16)[:, None]
    column = tl.program_id(1) * ACROSS * 16 + tl.arange(0, ACROSS * 16)
    c = (column % 16)[None, :]
    inside = (tl.program_id(0) * 16 + r < m) & (column < n)[None, :]
    t = r % 8 * 32 + c // 2 % 4 * 8 + c // 8 * 4 + r // 8 * 2 + c % 2 if PUBLISHED else r * 16 + c
    end = (t // V + 1) * (K * V)  # of the window
    word = (end - 1) // 32
    at = words + (tl.program_id(0).to(tl.int64) * across + column // 16)[None, :] * (8 * K)
    own = _big_endian(tl.load(at + word, mask=inside, other=0))
    before = _big_endian(tl.load(at + (word + 8 * K - 1) % (8 * K), mask=inside, other=0))
    shift = (word * 32 + 32 - end).to(tl.uint32)
    window = (own >> shift) | (before << 1 << (31 - shift))
    w = _value(window & (2**L - 1), (t % V).to(tl.uint32), table, CODE, V) * (tl.load(scale) * unit)
    to = W + (tl.program_id(0).to(tl.int64) * 16 + r) * n + column[None, :]
    tl.store(to, w.to(W.dtype.element_ty), mask=inside)
