"""Products with F_1 (x) ... (x) F_k, one small matrix product per factor.

    y[i_1, .., i_k] = sum_j F_1[i_1, j_1] .. F_k[i_k, j_k] x[j_1, .., j_k]

The last axis is seen as k axes and each is multiplied by its factor: sum(f_i) operations per entry instead of n. A few
dense factors of 16 to 128 beat a butterfly of log2(n) passes, which moves the whole vector in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kronecker_apply(factors: Sequence[Tensor], x: Tensor, trailing: int = 1) -> Tensor:
    """(F_1 (x) ... (x) F_k (x) I_trailing) x over the last axis of x: (..., n), n the product of all widths."""
    shape = x.shape
    for F in reversed(factors):
        size = F.shape[0]
        if trailing == 1:
            x = x.reshape(-1, size) @ F.T
        else:
            x = x.reshape(-1, size, trailing)
            x = torch.bmm(F.expand(len(x), size, size), x)
        trailing *= size
    return x.reshape(shape)


def kronecker_apply_transpose(factors: Sequence[Tensor], x: Tensor, trailing: int = 1) -> Tensor:
    """(F_1 (x) ... (x) F_k (x) I)^T x over the last axis of x: (..., n)."""
    return kronecker_apply([F.T for F in factors], x, trailing)
