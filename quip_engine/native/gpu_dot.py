"""Float32 products on tensor cores, by two or three products of TF32.

    A B = A b + A (B - b)        b: B with 13 bits of its mantissas cut off, as many as TF32 has less than float32

for an A whose mantissas fit TF32 as they are. No term loses more than the 22nd bit: y is as exact as sums in float32.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(A, B, y, A_FITS: tl.constexpr, B_FITS: tl.constexpr):
    """y + A B, all float32; which of A and B have mantissas of 11 bits."""
    a = A if A_FITS else _cut(A)
    b = B if B_FITS else _cut(B)
    if not A_FITS:
        y = tl.dot(A - a, b, y, input_precision="tf32")
    if not B_FITS:
        y = tl.dot(a, B - b, y, input_precision="tf32")
    return tl.dot(a, b, y, input_precision="tf32")


@triton.jit
def _cut(x):
    return (x.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
