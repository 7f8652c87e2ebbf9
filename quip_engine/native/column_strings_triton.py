"""Strings of the water-filled trellis in Triton, for ``column_triton``: where they lie, the windows of four rows."""

# ruff: noqa: PLR0917 - a kernel takes its arguments by position
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

LEVELS_TO, COMPANDED_TO = tl.constexpr(3), tl.constexpr(5)  # bits, of codebooks/column_codes


@triton.jit
def packed_code(codes, i, inside, BITS: tl.constexpr):
    """Codes number i of a string of codes of 1 to 8 bits."""
    at, shift = i * BITS // 8, i * BITS % 8
    low = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    high = tl.load(codes + at + 1, mask=inside & (shift + BITS > 8), other=0).to(tl.int32)
    return ((low | (high << 8)) >> shift) & (2**BITS - 1)


@triton.jit
def bits_of(steps, rate, STEP_BITS: tl.constexpr):
    """Of so many steps, all of them together."""
    return (steps * rate + 2 ** (STEP_BITS - 1)) >> STEP_BITS


@triton.jit
def find_groups(
    rates,
    scales,
    base,
    inverse_gains,
    begins,
    steps,
    factors,
    n,
    S,
    T,
    L: tl.constexpr,
    GROUP: tl.constexpr,
    RATE_BITS: tl.constexpr,
    STEP_BITS: tl.constexpr,
    SCALE_BITS: tl.constexpr,
    OCTAVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The bit at which each group begins, its rate in steps, and what its values count with."""
    count = (n + GROUP - 1) // GROUP
    before = tl.zeros((), tl.int64)
    for start in range(0, count, BLOCK):
        g = start + tl.arange(0, BLOCK)
        inside = g < count
        rate = packed_code(rates, g, inside, RATE_BITS)
        length = bits_of(T, rate, STEP_BITS)
        taken = tl.where(inside, (length * S).to(tl.int64) * tl.minimum(n - g * GROUP, GROUP), 0)
        tl.store(begins + g, before + tl.cumsum(taken, 0) - taken, mask=inside)
        tl.store(steps + g, rate, mask=inside)
        scale = tl.load(base) * tl.exp2(packed_code(scales, g, inside, SCALE_BITS).to(tl.float32) * (-1 / OCTAVE))
        factor = tl.where(length >= L, scale * tl.load(inverse_gains + rate), 0.0)  # else there is no string
        tl.store(factors + g, factor, mask=inside)
        before += tl.sum(taken, 0)


@triton.jit
def last_word(codes, octets):
    """The bytes behind the whole words of the codes, as a word."""
    at = octets // 4 * 4
    word = tl.load(codes + at, mask=at < octets, other=0).to(tl.int32)
    word |= tl.load(codes + at + 1, mask=at + 1 < octets, other=0).to(tl.int32) << 8
    return word | (tl.load(codes + at + 2, mask=at + 2 < octets, other=0).to(tl.int32) << 16)


@triton.jit
def read_bits(words, whole, last, bit, inside, LONG: tl.constexpr):
    """64 bits from each bit on: uint64, or 32 that are sure. What lies beyond the words is anything."""
    at, shift = bit >> 5, (bit & 31).to(tl.uint64)
    low = tl.load(words + at, mask=inside & (at < whole), other=last).to(tl.uint32, bitcast=True)
    high = tl.load(words + at + 1, mask=inside & (at + 1 < whole), other=last).to(tl.uint32, bitcast=True)
    found = ((high.to(tl.uint64) << 32) | low) >> shift
    if LONG:
        next = tl.load(words + at + 2, mask=inside & (at + 2 < whole), other=last).to(tl.uint32, bitcast=True)
        found |= next.to(tl.uint64) << (63 - shift) << 1
    return found


@triton.jit
def value_of(window, start, before, end, table, L: tl.constexpr):
    """Of the step from bit ``before`` to ``end``; window: the L bits in front of ``start``, and those that follow.

    ``table``: of the steps with bits, all of one code; that of the others is the third behind that of ``levels``.
    """
    state = (window >> (end - start).to(tl.uint64)[None, :]).to(tl.int32) & (2**L - 1)
    return tl.load(table + state + ((end == before).to(tl.int32) * 3 << L)[None, :])


@triton.jit
def four_values(
    words,
    octets,
    last,
    table,
    begin,
    rate,
    unit,
    column,
    S,
    T,
    L: tl.constexpr,
    STEP_BITS: tl.constexpr,
):
    """Four of (COLUMNS, UNITS): the rows of each unit, in units of the group's factor. ``column``: of the group."""
    code = (rate > (LEVELS_TO << STEP_BITS)).to(tl.int32) + (rate > (COMPANDED_TO << STEP_BITS)).to(tl.int32)
    table += code << L
    s, t = unit // ((T + 3) // 4), unit % ((T + 3) // 4) * 4
    a, b, c = bits_of(t, rate, STEP_BITS), bits_of(t + 1, rate, STEP_BITS), bits_of(t + 2, rate, STEP_BITS)
    d, e = bits_of(t + 3, rate, STEP_BITS), bits_of(t + 4, rate, STEP_BITS)
    length, lacks = bits_of(T, rate, STEP_BITS), tl.maximum(L - a, 0)
    first = begin >> 5  # word: what follows is counted from it, in 32 bits
    whole = tl.minimum(octets // 4 - first, 2**30).to(tl.int32)
    string = (begin & 31).to(tl.int32) + (column * (S * length))[:, None] + (s * length)[None, :]
    window = read_bits(words + first, whole, last, string + tl.maximum(a - L, 0)[None, :], (t < T)[None, :], True)
    goes_round = ((lacks > 0) & (lacks <= length))[None, :]
    around = read_bits(words + first, whole, last, string + (length - lacks)[None, :], goes_round, False)
    lacks = lacks.to(tl.uint64)[None, :]
    one = tl.full((1, 1), 1, tl.uint64)
    window = (window << lacks) | (around & ((one << lacks) - one))
    v, w = value_of(window, a, a, b, table, L), value_of(window, a, b, c, table, L)
    return v, w, value_of(window, a, c, d, table, L), value_of(window, a, d, e, table, L)


@triton.jit
def row_factors(row_scales, row, inside, OCTAVE: tl.constexpr):
    return tl.exp2(packed_code(row_scales, row, inside, 6).to(tl.float32) * (-1 / OCTAVE))
