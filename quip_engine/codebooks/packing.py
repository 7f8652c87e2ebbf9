"""Codes of 1 to 8 bits, dense: each row is one little-endian string of bits, padded to whole bytes.

Code i of a row lies in bits ``i * bits`` up to ``(i + 1) * bits``, the lowest bit first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUPS = 1 << 15  # of eight codes, packed together


def packed_width(n: int, bits: int) -> int:
    """Bytes of a row of n codes."""
    return -(-n * bits // 8)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """(m, packed_width(n, bits)) uint8 from codes: (m, n) uint8, each below 2^bits."""
    m, n = codes.shape
    groups = pad(codes, (0, -n % 8)).view(-1, 8)  # eight codes make ``bits`` bytes
    octets = torch.empty(len(groups), bits, dtype=torch.uint8, device=codes.device)
    for some, into in zip(groups.split(GROUPS), octets.split(GROUPS), strict=True):
        words = torch.zeros(len(some), dtype=torch.int64, device=codes.device)
        for i in range(8):
            words |= some[:, i].long() << bits * i
        into.copy_(words[:, None] >> 8 * torch.arange(bits, device=codes.device) & 255)
    return octets.view(m, -1)[:, : packed_width(n, bits)].contiguous()


def unpack_bits(packed: Tensor, bits: int, n: int) -> Tensor:
    """Codes: (m, n) uint8 from what ``pack_bits`` made."""
    m, width = packed.shape
    octets = pad(packed, (0, -(-n // 8) * bits - width)).view(m, -1, bits)
    words = torch.zeros(octets.shape[:2], dtype=torch.int64, device=packed.device)
    for i in range(bits):
        words |= octets[:, :, i].long() << 8 * i
    codes = words[..., None] >> bits * torch.arange(8, device=packed.device) & 2**bits - 1
    return codes.to(torch.uint8).view(m, -1)[:, :n]
