"""Codes of the bitshift trellis: the value, or the V = 2 values, that each state of L bits stands for.

QTIP (arXiv 2406.11235, section 3) computes them from the state x, modulo 2^32:

| code       | value                                                                                              |
|------------|----------------------------------------------------------------------------------------------------|
| `1mad`     | sum of the bytes of 34038481 x + 76625530                                                          |
| `3inst`    | y = (89226354 x + 64248484 & 0x8FFF8FFF) ^ 0x3B603B60: its upper + its lower half, read as float16 |
| `mul1`     | s = sum of the bytes of 0x83DCD12D x, (1024 + s) a + b in float16, rounded once (EXL3's)           |
| `hyb`      | V = 2: h = x (x + 1), a table at bits 6 to 14 of h (Q = 9); bit 15 turns the sign of the first     |
| `quantile` | a quantile of the standard normal distribution, see below                                          |
| `levels`   | one of 256 whole numbers, see below: computed in registers, multiplied as integers of 8 bits       |
| `trained`  | that, improved by Lloyd's iteration at 2 bits (``training``); for L = 8, 10 and 12                 |

The first four are as good as values at random. ``quantile`` is ours, and better: the quantile of state x is number

    a rev(x) + b x  mod 2^L        rev: the bits of x in opposite order; a, b small and odd

The newest bits of x lead the first term and the oldest the second, so that, whatever number of bits k a step consumes,
the 2^k states that follow one state have one value in each of the 2^k parts of the distribution, and so have the 2^k
states that one state follows. (Set partitioning does this for a trellis of one rate.) At L = 12 the Gaussian distortion
is .0695 at 2 bits and .0046 at 4, against .0735 and .0051 for quantiles in random order.

``levels`` is made to be computed. The rank of state x is

    3 rev(x) + (x without its lower floor(L / 2) bits)  mod 2^L

which is one-to-one, and its upper 8 bits number the means of 256 equal parts of the distribution, in units of 1 / 127
of the outermost. 256 values are too few above 3 bits: at L = 12 the distortion is .0695 at 2 bits and .0047 at 4.

Every table is divided by its root mean square here and nowhere else: it has rms 1.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

TRAINED = Path(__file__).with_name("trained_tables.safetensors")
CODES = ("quantile", "levels", "trained", "mul1", "1mad", "3inst", "hyb")
TRAINED_SIZES = (8, 10, 12)  # L
HYBRID_BITS = 9  # Q, as published
WORD = 2**32 - 1
MULTIPLIERS, MULTIPLIERS_LONG = (1, 3), (7, 5)  # a, b for L < 12 and from there on: least distortion at 1 to 4 bits
MULTIPLIERS_IDLE = (11, 13)
LEVEL_MULTIPLIERS, LEVEL_MULTIPLIERS_IDLE = (3, 1), (11, 13)  # the same for ``levels``
LEVEL_BITS, LARGEST_LEVEL = 8, 127


@lru_cache(maxsize=32)
def code_table(name: str, L: int) -> Tensor:
    """Values: (2^L, V) float32 of rms 1, on the CPU. Not to be changed."""
    return _unit(hybrid_values(hybrid_pairs(), L) if name == "hyb" else _scalar(name, L)[:, None])


def code_rms(name: str, L: int) -> float:
    """What the table of a code with V = 1 was divided by: the rms of its values as they are defined."""
    return float(_rms(_scalar(name, L)))


@lru_cache(maxsize=32)
def idle_table(name: str, L: int) -> Tensor:
    """The second table: (2^L, 1), for steps without bits: the values of a code with V = 1 in another order."""
    if name == "levels":
        return _unit(gaussian_levels()[level_numbers(L, *LEVEL_MULTIPLIERS_IDLE)].float()[:, None])
    return code_table(name, L).sort(0).values[state_order(L, *MULTIPLIERS_IDLE)]


def state_order(L: int, a: int, b: int) -> Tensor:
    """The rank of each state: (2^L,), in the order of a rev(x) + b x mod 2^L, the smaller state first where equal."""
    x = torch.arange(2**L)
    return ((a * _mirrored(x, L) + b * x) % 2**L).argsort(stable=True).argsort()


def level_numbers(L: int, a: int, b: int) -> Tensor:
    """Which of the 256 levels, rising, each state stands for: (2^L,)."""
    return level_ranks(L, a, b) >> L - LEVEL_BITS


def level_ranks(L: int, a: int, b: int) -> Tensor:
    """The rank of each state, of which the upper bits count for ``levels``: (2^L,)."""
    x = torch.arange(2**L)
    return (a * _mirrored(x, L) + b * (x >> L // 2 << L // 2)) % 2**L


@lru_cache(maxsize=1)
def gaussian_levels() -> Tensor:
    """Means of 256 equal parts of the standard normal distribution, the outermost at +-127: (256,) int8, rising."""
    ends = torch.special.ndtri(torch.arange(2**LEVEL_BITS + 1, dtype=torch.float64) / 2**LEVEL_BITS)
    means = -(-ends.square() / 2).exp().diff()
    return (means * (LARGEST_LEVEL / means.max())).round().to(torch.int8)


def _mirrored(x: Tensor, L: int) -> Tensor:
    """Numbers of L bits with these in opposite order."""
    return sum((x >> i & 1) << (L - 1 - i) for i in range(L))  # type: ignore[return-value]


def _scalar(name: str, L: int) -> Tensor:
    """Values: (2^L,) of a code with V = 1, as it is defined."""
    x = torch.arange(2**L)
    if name == "quantile":
        return normal_quantiles(2**L)[state_order(L, *(MULTIPLIERS if L < 12 else MULTIPLIERS_LONG))]
    if name == "levels":
        return gaussian_levels()[level_numbers(L, *LEVEL_MULTIPLIERS)].float()
    if name == "trained":
        return load_file(TRAINED)[f"trained-{L}"]
    if name == "1mad":
        return _byte_sum(34038481 * x + 76625530) - 510
    if name == "3inst":
        y = (89226354 * x + 64248484 & 0x8FFF8FFF) ^ 0x3B603B60
        return (_half(y >> 16) + _half(y)).float()
    if name == "mul1":
        a, b = _half(torch.tensor([0x1EEE, 0xC931])).float()
        return ((1024 + _byte_sum(0x83DCD12D * x)) * a + b).half().float()  # exact in float32 up to the one rounding
    raise ValueError(f"no code {name}")


def hybrid_pairs() -> Tensor:
    """The trained table of ``hyb``: (2^Q, 2) float32."""
    return load_file(TRAINED)["hyb"]


def hybrid_values(pairs: Tensor, L: int) -> Tensor:
    """Values: (2^L, 2) of the states of ``hyb`` with a table of pairs: (2^Q, 2), as it is defined."""
    x = torch.arange(2**L, device=pairs.device)
    h = x * (x + 1) & WORD
    values = pairs[h >> 15 - HYBRID_BITS & 2**HYBRID_BITS - 1]
    values[:, 0] *= 1 - 2 * (h >> 15 & 1)
    return values


def normal_quantiles(count: int) -> Tensor:
    """Of the standard normal distribution, in the middle of ``count`` equal parts, rising: (count,) float32."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


def _byte_sum(y: Tensor) -> Tensor:
    return sum((y & WORD) >> 8 * i & 255 for i in range(4)).float()  # type: ignore[union-attr]


def _half(y: Tensor) -> Tensor:
    """The low 16 bits as a float16."""
    return y.to(torch.int16).view(torch.float16)


def _unit(values: Tensor) -> Tensor:
    return values / _rms(values)


def _rms(values: Tensor) -> Tensor:
    return values.double().square().mean().sqrt().float()
