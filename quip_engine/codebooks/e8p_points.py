"""The E8P12 code: 65,536 points of the shifted lattice E8 + 1/4, two bits per weight.

QuIP# (arXiv 2402.04396, section 4).

    point = sigma * s_a + (1/4 or -1/4)      s_a: one of 256 magnitudes, halves of odd numbers; sigma: signs

The signs make the sum of the unshifted coordinates even, so the unshifted points lie in the lattice D8 + 1/2 and both
shifts of them in E8 + 1/4. Magnitudes: all of squared norm <= 10 (227, in lexicographic order), then 29 chosen ones of
squared norm 12.

A code has 16 bits, as published::

    code = a << 8 | z      p = parity of z      z' = z with bit 0 flipped if p = 1

Bit SIGN_BIT[j] of z' says whether coordinate j of the stored magnitude is negated; a magnitude with an odd sum is
stored with coordinate 7 negated, so z' always has an even number of ones. The shift is +1/4 where p = 0, else -1/4.
Hence ``code >> 1`` numbers the 32,768 unshifted points, whichever the shift.

| paper                | here                     |
|----------------------|--------------------------|
| S (source codebook)  | ``magnitudes``: (256, 8) |
| E8P                  | ``points``: (65536, 8)   |
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

DIMENSION = 8
SHIFT = 0.25
SIGN_BIT = (0, 4, 1, 5, 2, 6, 3, 7)  # of coordinates 0..7
# The magnitudes of squared norm 12, doubled: five 3/2 and three 1/2 each.
NORM_12 = (
    "31113333 13113333 11313333 11133333 33313311 33313131 33311331 33313113 33311313 33311133 33133311 33133131 "
    "33131331 33133113 33131313 33131133 31333311 31333131 31331331 31333113 31331313 13331133 13333311 13333131 "
    "13331331 13333113 13331313 11331333 33113331"
)


@lru_cache
def magnitudes(device: torch.device) -> Tensor:
    """s_a: (256, 8), all positive, by number."""
    halves = torch.tensor([0.5, 1.5, 2.5])
    small = torch.cartesian_prod(*[halves] * DIMENSION)
    small = small[small.square().sum(1) <= 10]
    large = torch.tensor([[int(digit) / 2 for digit in word] for word in NORM_12.split()])
    return torch.cat([small, large]).to(device)


@lru_cache
def odd_sums(device: torch.device) -> Tensor:
    """Which magnitudes need an odd number of negative coordinates: (256,) bool."""
    return magnitudes(device).sum(1) % 2 == 1


@lru_cache
def points(device: torch.device) -> Tensor:
    """Every point by its code: (65536, 8)."""
    code = torch.arange(65536, device=device)
    a, z = code >> 8, code & 255
    minus = parity(z)
    bits = torch.tensor(SIGN_BIT, device=device)
    negated = ((z ^ minus)[:, None] >> bits & 1).bool()
    negated[:, 7] ^= odd_sums(device)[a]
    return torch.where(negated, -1.0, 1.0) * magnitudes(device)[a] + SHIFT * (1 - 2 * minus)[:, None]


def encode(magnitude: Tensor, negative: Tensor, minus: Tensor) -> Tensor:
    """Codes: (N,) from a magnitude's number: (N,), its negative coordinates: (N, 8) and 1 for a shift of -1/4: (N,)."""
    weights = torch.tensor([1 << bit for bit in SIGN_BIT], device=negative.device)
    z = (negative * weights).sum(1) ^ (odd_sums(negative.device)[magnitude] << 7)
    return magnitude << 8 | z ^ minus


def parity(code: Tensor) -> Tensor:
    """1 where the low eight bits of a code have an odd number of ones (shift -1/4), else 0."""
    z = code ^ code >> 4
    z = z ^ z >> 2
    return (z ^ z >> 1) & 1


def pack_published(codes: Tensor) -> Tensor:
    """The published layout of 2-bit codes: (m / 16, n / 64, 8, 4) int64 from codes: (m, n / 8), m % 16 = n % 64 = 0.

    A word holds two rows and two columns of codes: their magnitudes in the low 32 bits, one byte each, down the columns
    first; their signs in the high 32 bits, interleaved by bit.
    """
    m, blocks = codes.shape
    square = codes.long().view(m // 16, 8, 2, blocks // 8, 4, 2).permute(0, 3, 1, 4, 5, 2).flatten(-2)
    place = torch.arange(4, device=codes.device)
    low = ((square >> 8) << 8 * place).sum(-1)
    bits = square[..., None] >> torch.arange(8, device=codes.device) & 1
    high = (bits << place[:, None] + 4 * torch.arange(8, device=codes.device)).sum((-2, -1))
    return high << 32 | low


def unpack_published(words: Tensor) -> Tensor:
    """Codes: (m, n / 8) int32 from the published layout: (m / 16, n / 64, 8, 4) int64."""
    place = torch.arange(4, device=words.device)
    magnitude = (words[..., None] >> 8 * place & 255).int()
    signs = (words[..., None] >> 32 + place & 0x11111111).int()  # of each code, four bits apart
    for shift, mask in ((3, 0x03030303), (6, 0x000F000F), (12, 0x000000FF)):  # draw them together
        signs = (signs | signs >> shift) & mask
    square = (magnitude << 8 | signs).unflatten(-1, (2, 2)).permute(0, 2, 5, 1, 3, 4)
    return square.flatten(3).flatten(0, 2)
