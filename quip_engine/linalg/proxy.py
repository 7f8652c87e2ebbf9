"""How much a rounding costs, and how evenly W and H are spread.

    proxy(W^) = tr((W^ - W) H (W^ - W)^T)                        QuIP (arXiv 2307.13304) eq. 1, relative to tr(W H W^T)
    mu_W = max|W_ij| sqrt(m n) / |W|_F                           QuIP definition 1
    mu_H = sqrt(n) max|Q_ij|,   H = Q diag(lambda) Q^T

Both mu are 1 at best; they are sqrt(m n) and sqrt(n) for a single spike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDEST_EIGENVECTORS = 1024  # beyond it they cost more than the quantization they explain
CHUNK = 256  # rows and columns held in float64 at a time


def proxy_loss(W: Tensor, W_hat: Tensor, H: Tensor) -> float:
    """tr(E H E^T) / tr(W H W^T) with E = W_hat - W: (m, n), for a symmetric H: (n, n). Zero where E is."""
    loss = scale = 0.0
    for w, w_hat in zip(W.split(CHUNK), W_hat.split(CHUNK), strict=True):
        loss += quadratic_trace(w_hat.double() - w.double(), H)
        scale += quadratic_trace(w.double(), H)
    return loss / max(scale, 1e-300)


def quadratic_trace(E: Tensor, H: Tensor) -> float:
    """tr(E H E^T) for E: (m, n) and a symmetric H: (n, n).

    In float64, because a good rounding leaves its error where H is small: the large terms cancel. By symmetry only the
    blocks of H on and below the diagonal are used.
    """
    return sum(_trace_of_rows(rows.double(), H) for rows in E.split(CHUNK))


def _trace_of_rows(E: Tensor, H: Tensor) -> float:
    total = 0.0
    for start in range(0, H.shape[0], CHUNK):
        block = slice(start, start + CHUNK)
        below = slice(start + CHUNK, None)
        weighted = E[:, block] @ H[block, block].double() + 2 * (E[:, below] @ H[below, block].double())
        total += float((weighted * E[:, block]).sum())
    return total


def weight_incoherence(W: Tensor) -> float:
    """mu of W: (m, n); 1 at best. Zero for a zero matrix."""
    rows = W.split(CHUNK)  # a W that is held transposed is not copied as a whole
    largest = max(float(some.abs().max()) for some in rows)
    norm = math.hypot(*(float(torch.linalg.vector_norm(some, dtype=torch.float32)) for some in rows))
    return largest * math.sqrt(W.numel()) / max(norm, 1e-30)


def eigenvectors(H: Tensor, limit: int = WIDEST_EIGENVECTORS) -> Tensor | None:
    """Q: (n, n), one eigenvector per column of a symmetric H: (n, n); None for n above ``limit``."""
    return torch.linalg.eigh(H)[1] if H.shape[0] <= limit else None


def hessian_incoherence(Q: Tensor) -> float:
    """mu of the H whose orthonormal eigenvectors are the columns of Q: (n, n); 1 at best."""
    return float(Q.abs().max()) * math.sqrt(Q.shape[0])
