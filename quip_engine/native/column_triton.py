"""Products with the water-filled trellis on CUDA, in Triton: a lane takes four rows and goes through the columns.

    y_r = r_r sum_i x_i f_i value(window of row r in column i)        f_i = s_i / g(R_i)

``codebooks/column_trellis`` says what is stored. Where a column begins is the sum of what those before it take: one
program finds that for all groups, with their rates and factors (``find_groups``), at each call. Rates are in steps of
2^-``step_bits``, so a window ends at an integer shifted out of a multiple of one. The columns of a group share all
that; a program takes them together.

The windows of four rows span no more than 48 bits (at 8 bits a row), which are read once. Strings hold their first bit
lowest, so a window is shifted out as it lies, and the tables are in the order of mirrored states. Windows that begin
before their string go round to its end: what they lack is read there.

One row of x is multiplied and added by lanes; 2 to 16 rows go through tensor cores (``gpu_dot``). The groups are
divided into shares by the shape alone, whose sums are added in order: the same inputs give the same bits.

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

from quip_engine.native.column_strings_triton import find_groups, four_values, last_word, row_factors
from quip_engine.native.gpu import shares
from quip_engine.native.gpu_dot import product

UNITS = 128  # of four rows, of a program
BLOCK = 1024  # groups whose beginnings are found at a time
TOGETHER = 8  # columns that are read together at least, for their loads to overlap
NARROW = 16  # columns that a product on tensor cores has at least


class Columns(NamedTuple):
    """A layer, as it is stored and as it is read; tensors uint8 where nothing else is said."""

    codes: Tensor
    rates: Tensor
    scales: Tensor
    base: Tensor  # (1,) float32
    row_scales: Tensor | None
    table: Tensor  # (4, 2^L) float32: values of mirrored states in three codes, and on steps without bits
    inverse_gains: Tensor  # (2^rate_bits,) float32
    shape: tuple[int, int]  # m, n
    sequences: tuple[int, int]  # S, T
    L: int
    group: int
    rate_bits: int
    step_bits: int  # rates are in steps of 2^-step_bits
    scale_bits: int
    octave: int  # steps of a scale in one
    row_octave: int


def multiply(layer: Columns, x: Tensor) -> Tensor:
    """y: (b, m) of x: (b, n), b <= 16, both float32."""
    (m, n), b = layer.shape, len(x)
    together = 1 if b > 1 else triton.cdiv(TOGETHER, layer.group)
    count, share = shares(_programs(layer), triton.cdiv(n, layer.group), together)
    y = torch.empty(count, b, m, device=x.device)
    kind = _kind(layer, NARROW if b > 1 else 1) | {"MANY": b > 1, "GROUPS": together}
    _multiply[_programs(layer), count](*_tensors(layer), x, y, *_sizes(layer), share, b, **kind)
    return y[0] if count == 1 else y.sum(0)


def unpack(layer: Columns, dtype: torch.dtype) -> Tensor:
    """W~: (m, n) in ``dtype``, column after column."""
    m, n = layer.shape
    W = torch.empty(n, m, dtype=dtype, device=layer.codes.device)
    grid = (_programs(layer), triton.cdiv(n, layer.group))
    _unpack[grid](*_tensors(layer), W, *_sizes(layer), **_kind(layer, 1))
    return W.T


def _tensors(layer: Columns) -> tuple[Tensor, ...]:
    """What kernels read; of groups: where they begin: int64, their rates: int32, and factors: float32."""
    count, device = triton.cdiv(layer.shape[1], layer.group), layer.codes.device
    begins = torch.empty(count, dtype=torch.int64, device=device)
    rates = torch.empty(count, dtype=torch.int32, device=device)
    factors = torch.empty(count, device=device)
    stored = (layer.rates, layer.scales, layer.base, layer.inverse_gains)
    kind = {
        "L": layer.L,
        "GROUP": layer.group,
        "RATE_BITS": layer.rate_bits,
        "STEP_BITS": layer.step_bits,
        "BLOCK": BLOCK,
    }
    kind |= {"SCALE_BITS": layer.scale_bits, "OCTAVE": layer.octave}
    find_groups[1,](*stored, begins, rates, factors, layer.shape[1], *layer.sequences, **kind)
    words = layer.codes[: layer.codes.numel() // 4 * 4].view(torch.int32)
    row_scales = layer.codes if layer.row_scales is None else layer.row_scales
    return layer.codes, words, layer.table, begins, rates, factors, row_scales


def _programs(layer: Columns) -> int:
    """For all rows."""
    S, T = layer.sequences
    return triton.cdiv(S * triton.cdiv(T, 4), UNITS)


def _sizes(layer: Columns) -> tuple[int, ...]:
    return (*layer.shape, *layer.sequences, layer.codes.numel())


def _kind(layer: Columns, least: int) -> dict[str, object]:
    columns = max(least, triton.next_power_of_2(layer.group))
    row_octave = 0 if layer.row_scales is None else layer.row_octave
    kind = {"L": layer.L, "GROUP": layer.group, "STEP_BITS": layer.step_bits, "ROW_OCTAVE": row_octave}
    return kind | {"UNITS": UNITS, "COLUMNS": columns, "enable_fp_fusion": True}


@triton.jit
def _store(y, total, i: tl.constexpr, unit, part, rows, row_scales, m, S, T, MANY: tl.constexpr, OCTAVE: tl.constexpr):
    """The sums of row i of the units."""
    s, t = unit // ((T + 3) // 4), unit % ((T + 3) // 4) * 4 + i
    row = s * T + t
    inside = (t < T) & (row < m)
    sums = total if MANY else tl.sum(total, 0)
    if OCTAVE > 0:
        factors = row_factors(row_scales, row, inside, OCTAVE)
        sums *= factors[:, None] if MANY else factors
    if MANY:
        many = tl.arange(0, 16)[None, :]
        tl.store(y + (part * rows + many) * m + row[:, None], sums, mask=(many < rows) & inside[:, None])
    else:
        tl.store(y + part * m + row, sums, mask=inside)


@triton.jit
def _multiply(
    codes,
    words,
    table,
    begins,
    rates,
    factors,
    row_scales,
    x,
    y,
    m,
    n,
    S,
    T,
    octets,
    share,
    rows,
    L: tl.constexpr,
    GROUP: tl.constexpr,
    STEP_BITS: tl.constexpr,
    ROW_OCTAVE: tl.constexpr,
    MANY: tl.constexpr,
    GROUPS: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One share of the groups, for the rows of some units; each of a unit's four rows has sums of its own."""
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    part, rest = tl.program_id(1), last_word(codes, octets)
    column, many = tl.arange(0, COLUMNS), tl.arange(0, 16)
    a = tl.zeros((UNITS, 16), tl.float32) if MANY else tl.zeros((COLUMNS, UNITS), tl.float32)
    b, c, d = a, a, a
    stop = tl.minimum(part * share + share, (n + GROUP - 1) // GROUP)
    for start in range(part * share, stop, GROUPS):
        for i in tl.static_range(GROUPS):
            g = start + i
            there = (column < GROUP) & (g * GROUP + column < tl.minimum(stop * GROUP, n))
            rate = tl.load(rates + g, mask=g < stop, other=0)
            begin = tl.load(begins + g, mask=g < stop, other=0)
            factor = tl.load(factors + g, mask=g < stop, other=0.0)
            p, q, v, w = four_values(words, octets, rest, table, begin, rate, unit, column, S, T, L, STEP_BITS)
            at = x + g * GROUP + column
            if MANY:
                there = there[:, None] & (many < rows)[None, :]
                z = tl.load(at[:, None] + (many * n)[None, :], mask=there, other=0.0) * factor
                a, b = product(tl.trans(p), z, a, False, False), product(tl.trans(q), z, b, False, False)
                c, d = product(tl.trans(v), z, c, False, False), product(tl.trans(w), z, d, False, False)
            else:
                z = (tl.load(at, mask=there, other=0.0) * factor)[:, None]
                a, b, c, d = a + p * z, b + q * z, c + v * z, d + w * z
    _store(y, a, 0, unit, part, rows, row_scales, m, S, T, MANY, ROW_OCTAVE)
    _store(y, b, 1, unit, part, rows, row_scales, m, S, T, MANY, ROW_OCTAVE)
    _store(y, c, 2, unit, part, rows, row_scales, m, S, T, MANY, ROW_OCTAVE)
    _store(y, d, 3, unit, part, rows, row_scales, m, S, T, MANY, ROW_OCTAVE)


@triton.jit
def _unpack(
    codes,
    words,
    table,
    begins,
    rates,
    factors,
    row_scales,
    W,
    m,
    n,
    S,
    T,
    octets,
    L: tl.constexpr,
    GROUP: tl.constexpr,
    STEP_BITS: tl.constexpr,
    ROW_OCTAVE: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    g, c = tl.program_id(1), tl.arange(0, COLUMNS)
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    rest = last_word(codes, octets)
    begin, rate = tl.load(begins + g), tl.load(rates + g)
    p, q, v, w = four_values(words, octets, rest, table, begin, rate, unit, c, S, T, L, STEP_BITS)
    weights = tl.interleave(tl.interleave(p, v), tl.interleave(q, w)) * tl.load(factors + g)
    i = tl.program_id(0) * UNITS * 4 + tl.arange(0, UNITS * 4)
    t = i % ((T + 3) // 4 * 4)
    row = i // ((T + 3) // 4 * 4) * T + t
    inside = (t < T) & (row < m)
    if ROW_OCTAVE > 0:
        weights *= row_factors(row_scales, row, inside, ROW_OCTAVE)[None, :]
    column = g * GROUP + c
    inside = ((c < GROUP) & (column < n))[:, None] & inside[None, :]
    tl.store(W + column.to(tl.int64)[:, None] * m + row[None, :], weights.to(W.dtype.element_ty), mask=inside)
