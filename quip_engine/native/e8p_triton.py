"""Products with E8P layers on CUDA, in Triton: a code becomes eight nibbles by two look-ups and an exclusive or.

    w = (u - 15 / 2) / 2        u: one of eight 4-bit numbers in   MAGNITUDES[code >> 8] ^ SIGNS[code & 255]

Weights of E8P are odd quarters between -11/4 and 11/4. With v the magnitude less 1/2, or its complement where it is
negative, and b = 1 for a shift of +1/4, they are (2 v + b) / 2 + 1/4. In the bits of 2 v + b + 8 = u a sign turns over
the upper three and the shift is the lowest, so both tables have 256 words of 32 bits, 2 KB that stay in the first
cache. A nibble in the mantissa of 2^23 is a float by one subtraction: with the look-ups about four instructions per
weight, of which one multiplies. Residual points come from the same tables or, at 3 bits, whole from a third:
w = (u - 8) / 2.

A nibble counts with a power of 16 by where it is, which x pays for in advance (``_planes``). x has a plane for each of
the eight coordinates, so that neighbouring lanes read neighbouring numbers.

One row of x is multiplied and added by lanes; 2 to 16 rows go through tensor cores (``gpu_dot``). The width is divided
into shares by its shape alone, whose sums are added in order: the same inputs give the same bits.

Not measured on a GPU yet; the tests run it in Triton's interpreter, and compile it.
"""

# ruff: noqa: PLR0917 - a kernel takes its arguments by position

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quip_engine.native.gpu import shares
from quip_engine.native.gpu_dot import product

ROWS = 64  # of a program
# Codes of each row at a time. For one row of x no more than make its planes shorter than the program has lanes: longer
# ones would go through shared memory.
CODES, CODES_MANY, CODES_UNPACKED = 64, 32, 16
SPREAD = 128  # codes' worth of x that a program spreads over the planes
STAGES = 2  # with 3, some of this would need more shared memory than most GPUs have


def multiply(
    codes: Tensor, residual: Tensor | None, tables: Tensor, scale: Tensor, inverse_r: float, x: Tensor
) -> Tensor:
    """y: (b, m) of x: (b, n), b <= 16, both float32, for W~ = scale (p1 + p2 inverse_r).

    ``codes``: (m, ceil(n / 8)) int16; ``residual``: the same, or uint8, or None; ``tables``: (3, 256) int32, of
    magnitudes, of signs and of residual points of 8 bits; ``scale``: (1,).
    """
    (m, blocks), b = codes.shape, len(x)
    many, bits = b > 1, 0 if residual is None else 8 * residual.element_size()
    at_a_time = CODES_MANY if many else CODES
    count, share = shares(triton.cdiv(m, ROWS), blocks, at_a_time)
    y = torch.empty(count, b, m, device=x.device)
    tensors = (codes, codes if residual is None else residual, tables, _planes(x, blocks), scale, y)
    kind = {"RESIDUAL": bits, "MANY": many, "ROWS": ROWS, "CODES": at_a_time, "num_stages": STAGES}
    _multiply[triton.cdiv(m, ROWS), count](*tensors, m, blocks, share, b, inverse_r, **kind, enable_fp_fusion=True)
    return y[0] if count == 1 else y.sum(0)


def unpack(
    codes: Tensor, residual: Tensor | None, tables: Tensor, scale: Tensor, inverse_r: float, n: int, dtype: torch.dtype
) -> Tensor:
    """W~: (m, n) in ``dtype``."""
    m, blocks = codes.shape
    W = torch.empty(m, n, dtype=dtype, device=codes.device)
    kind = {"RESIDUAL": 0 if residual is None else 8 * residual.element_size(), "ROWS": ROWS, "CODES": CODES_UNPACKED}
    tensors = (codes, codes if residual is None else residual, tables, scale, W)
    grid = (triton.cdiv(m, ROWS), triton.cdiv(blocks, CODES_UNPACKED))
    _unpack[grid](*tensors, m, n, blocks, inverse_r, **kind, enable_fp_fusion=True)
    return W


def _planes(x: Tensor, blocks: int) -> Tensor:
    """(b, 8, blocks): x by coordinate, in units of the nibbles."""
    (b, n), planes = x.shape, torch.empty(len(x), 8, blocks, device=x.device)
    _spread[triton.cdiv(blocks, SPREAD), b](x, planes, n, blocks, CODES=SPREAD)
    return planes


@triton.jit
def _spread(x, planes, n, blocks, CODES: tl.constexpr):  # type: ignore[no-untyped-def]
    """A plane for each coordinate; the float of nibble j is 2 * 16^(1 + j mod 4) times its weight."""
    k, j = tl.program_id(0) * CODES + tl.arange(0, CODES), tl.arange(0, 8)[None, :]
    column = k[:, None] * 8 + j
    value = tl.load(x + tl.program_id(1) * n + column, mask=column < n, other=0.0)
    value *= ((122 - j % 4 * 4) << 23).to(tl.float32, bitcast=True)  # 2^-5, 2^-9, 2^-13, 2^-17
    tl.store(planes + (tl.program_id(1) * 8 + j) * blocks + k[:, None], value, mask=(k < blocks)[:, None])


@triton.jit
def _words(codes, at, inside, tables, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The nibbles of codes of 16 or 8 bits: int32."""
    code = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    if BITS == 8:
        return tl.load(tables + 512 + code)
    return tl.load(tables + ((code >> 8) & 255)) ^ tl.load(tables + 256 + (code & 255))


@triton.jit
def _coordinate(word, j: tl.constexpr, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weight j as a float, times 2 * 16^(1 + j mod 4)."""
    place: tl.constexpr = 4 * (j % 4)
    half = (word << 4) if j < 4 else (word >> 12)
    number = ((half & (0xF0 << place)) | 0x4B000000).to(tl.float32, bitcast=True)
    return number - (0x800000 + ((128 if BITS == 8 else 120) << place))


@triton.jit
def _multiply(  # type: ignore[no-untyped-def]
    codes,
    residual,
    tables,
    planes,
    scale,
    y,
    m,
    blocks,
    share,
    b,
    inverse_r,
    RESIDUAL: tl.constexpr,
    MANY: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
):
    """One share of the width of some rows. Points and residual points have sums of their own."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    x_row = tl.arange(0, 16)
    first = tl.zeros((ROWS, 16 if MANY else CODES), tl.float32)
    second = first
    start = part * share
    for block in range(start, tl.minimum(start + share, blocks), CODES):
        k = block + tl.arange(0, CODES)
        inside = (row < m)[:, None] & (k < blocks)[None, :]
        at = row.to(tl.int64)[:, None] * blocks + k[None, :]
        word = _words(codes, at, inside, tables, 16)
        if RESIDUAL > 0:
            rest = _words(residual, at, inside, tables, RESIDUAL)
        for j in tl.static_range(8):
            if MANY:
                there = (k < blocks)[:, None] & (x_row < b)[None, :]
                x = tl.load(planes + (x_row * 8 + j)[None, :] * blocks + k[:, None], mask=there, other=0.0)
                first = product(_coordinate(word, j, 16), x, first, True, False)
                if RESIDUAL > 0:
                    second = product(_coordinate(rest, j, RESIDUAL), x, second, True, False)
            else:
                x = tl.load(planes + j * blocks + k, mask=k < blocks, other=0.0)[None, :]
                first += _coordinate(word, j, 16) * x
                if RESIDUAL > 0:
                    second += _coordinate(rest, j, RESIDUAL) * x
    if RESIDUAL > 0:
        first += second * inverse_r
    first *= tl.load(scale)
    if MANY:
        to = (part * b + x_row)[None, :] * m + row[:, None]
        tl.store(y + to, first, mask=(row < m)[:, None] & (x_row < b)[None, :])
    else:
        tl.store(y + part * m + row, tl.sum(first, 1), mask=row < m)


@triton.jit
def _weights(word, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(ROWS, CODES, 8) from words: (ROWS, CODES)."""
    nibble = (word[:, :, None] >> (4 * tl.arange(0, 8))[None, None, :]) & 15
    return (nibble.to(tl.float32) - (8.0 if BITS == 8 else 7.5)) * 0.5


@triton.jit
def _unpack(  # type: ignore[no-untyped-def]
    codes,
    residual,
    tables,
    scale,
    W,
    m,
    n,
    blocks,
    inverse_r,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * CODES + tl.arange(0, CODES)
    inside = (row < m)[:, None] & (k < blocks)[None, :]
    at = row.to(tl.int64)[:, None] * blocks + k[None, :]
    w = _weights(_words(codes, at, inside, tables, 16), 16)
    if RESIDUAL > 0:
        w += _weights(_words(residual, at, inside, tables, RESIDUAL), RESIDUAL) * inverse_r
    w = tl.reshape(w * tl.load(scale), (ROWS, 8 * CODES))
    column = tl.program_id(1) * 8 * CODES + tl.arange(0, 8 * CODES)
    inside = (row < m)[:, None] & (column < n)[None, :]
    tl.store(W + row.to(tl.int64)[:, None] * n + column[None, :], w.to(W.dtype.element_ty), mask=inside)
