"""One x times W that comes some rows at a time.

    y = x W^T        x: (b, n)        W: (m, n)

In bfloat16 by the C kernel where the CPU has instructions for it (``native/gemm.c``): x is laid out once for all rows
of W, and sums leave it as float32. Elsewhere, and in float32, torch multiplies; its sums of bfloat16 are rounded to it.
"""

from __future__ import annotations

from ctypes import c_int, c_int64, c_void_p

import torch
from torch import Tensor

from quip_engine.native import converted, fresh, in_threads, library, pointer

WORTH_A_THREAD = 2**16  # numbers of x


class Gemm:
    """x: (b, n) float32 or ``dtype`` on a CPU, to be multiplied in ``dtype``.

    The result is the same whatever rows come together.
    """

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        self._shape = tuple(map(c_int64, x.shape))
        self._laid_out = self._lay_out(x.contiguous()) if dtype == torch.bfloat16 else None
        self._x = x if self._laid_out is not None else converted(x, dtype)

    def into(self, y: Tensor, W: Tensor) -> None:
        """y = x W^T: (b, rows) float32, maybe columns of a wider one, for contiguous W: (rows, n) in ``dtype``."""
        if self._laid_out is None:
            if W.dtype == y.dtype:
                torch.mm(self._x, W.T, out=y)
            else:
                y.copy_(self._x @ W.T)
            return
        kernels, rows = library(), c_int64(len(W))
        assert kernels is not None
        data = pointer(self._laid_out), *self._shape, pointer(W), rows, c_void_p(y.data_ptr()), c_int64(y.stride(0))
        in_threads(lambda *blocks: kernels.gemm(*data, *map(c_int64, blocks)), kernels.gemm_blocks(rows))

    def _lay_out(self, x: Tensor) -> Tensor | None:
        """x for the kernel, in bfloat16; None where torch is to multiply."""
        kernels = library()
        if kernels is None:
            return None
        kernels.gemm_room.restype = c_int64
        if not (room := kernels.gemm_room(*self._shape)):
            return None
        panels, laid_out = kernels.gemm_panels(self._shape[0]), fresh(room, dtype=torch.bfloat16)
        data = pointer(x), c_int(x.dtype == torch.bfloat16), *self._shape
        in_threads(
            lambda *some: kernels.gemm_lay_out(*data, *map(c_int64, some), pointer(laid_out)),
            panels,
            1 + WORTH_A_THREAD * panels // max(1, x.numel()),
        )
        return laid_out
