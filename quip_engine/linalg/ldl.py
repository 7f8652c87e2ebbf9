"""Block LDL factorization, the feedback of LDLQ.

QuIP (arXiv 2307.13304, section 3), QuIP# (arXiv 2402.04396, section 4.1).

    H = L D L^T        L = 1 + strictly lower blocks, D = block diagonal, blocks of g columns

From the Cholesky factor H = C C^T, with B_k the k-th diagonal block of C:

    L_:k = C_:k B_k^-1        D_k = B_k B_k^T

For g = 1 this is the LDL of QuIP with columns rounded last to first: tr(E H E^T) = sum_k |(E L)_:k|^2_{D_k}, and column
k of E L holds only errors of k and of later columns.

| paper           | here     |
|-----------------|----------|
| U or L          | ``L``    |
| D               | ``D``    |
| g (block width) | ``block``|
"""

from __future__ import annotations

import torch
from torch import Tensor


def block_ldl_(C: Tensor, block: int) -> tuple[Tensor, list[Tensor]]:
    """L: (n, n), written over the lower Cholesky factor C: (n, n) of H, and D_k: (g, g) of each block.

    Only what is below the diagonal blocks is written, and means L; it has ones on its diagonal. The last block is
    narrower where ``block`` does not divide n.
    """
    n = len(C)
    D = []
    for start in range(0, n, block):
        stop = min(start + block, n)
        B = C[start:stop, start:stop].tril()
        C[stop:, start:stop] = torch.linalg.solve_triangular(B, C[stop:, start:stop], upper=False, left=False)
        D.append(B @ B.T)
    return C, D
