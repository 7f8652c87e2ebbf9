"""H = E[x x^T] of a layer's inputs: gathered, checked, damped and factorized.

    H = (1/T) sum_t w_t x_t x_t^T        H_damped = H + damping mean(diag H) I        H_damped = L L^T

w_t = 1 unless tokens count unequally (``sensitivity``).

QuIP (arXiv 2307.13304, section 5) and QuIP# (arXiv 2402.04396, appendix F). Calibration text shorter than the width
leaves H singular, an input that is always zero leaves a zero row: damping makes both regular. A factorization is no
test of its input (one NaN in the upper triangle passes unseen, an infinity comes back as NaN), so H is tested first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quip_engine.errors import fail

ASYMMETRY = 1e-4  # largest |H - H^T| allowed, relative to max |H|: far above float32 rounding, far below a wrong file
ROWS = 256  # looked at together, so that no step needs another (n, n) matrix
RAISED = (10, 100, 1000)  # times the asked damping (at least 0.001), in float64, where all else has failed


class Hessian:
    """The running mean of x x^T. Holds one (n, n) float32 buffer, whatever the number of tokens."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self.matrix = torch.zeros(n, n, device=device)  # (1/T) X^T X
        self.tokens = 0  # T

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Take in the inputs x: (..., n) of any float dtype; each row is a token, and counts with ``weights``: (T,)."""
        X = x.detach().reshape(-1, x.shape[-1]).to(self.matrix)
        if len(X) == 0:
            return
        total = self.tokens + len(X)
        # The mean, not the sum: no growth towards overflow, and no second matrix to divide into.
        weighted = X if weights is None else X * weights.to(X)[:, None]
        self.matrix.addmm_(X.T, weighted, beta=self.tokens / total, alpha=1 / total)
        self.tokens = total

    def symmetrize_(self) -> None:
        """Remove what float32 rounding left between the triangles, in place, so that nobody needs a copy."""
        n = len(self.matrix)
        for start in range(0, n, ROWS):
            stop = min(start + ROWS, n)
            corner = self.matrix[start:stop, start:stop]
            corner.copy_(corner / 2 + corner.T / 2)
            self.matrix[start:stop, stop:] = self.matrix[stop:, start:stop].T


def check_hessian(H: Tensor, n: int, name: str) -> tuple[Tensor, list[str]]:
    """H: (n, n) as exactly symmetric float32, with notes on what calibration did not reach.

    A zero H (no signal reached this layer) becomes the identity. Raises ``BAD_PROBLEM`` for a wrong shape, an
    asymmetric H or a negative diagonal, ``NON_FINITE`` for NaN or infinities.
    """
    if H.shape != (n, n):
        fail("BAD_PROBLEM", path=name, reason=f"H is {' x '.join(map(str, H.shape))}, not {n} x {n}")
    H = H.detach().to(torch.float32)
    if bad := sum(int((~torch.isfinite(rows)).sum()) for rows in H.split(ROWS)):
        fail("NON_FINITE", name=f"H of {name}", count=bad, remedy="Calibrate with another text, or in float32.")
    largest = max(float(H.max()), -float(H.min()))
    asymmetry = max(
        float((rows - H[:, i * ROWS : (i + 1) * ROWS].T).abs().max()) for i, rows in enumerate(H.split(ROWS))
    )
    if asymmetry > ASYMMETRY * largest:
        fail("BAD_PROBLEM", path=name, reason="H is not symmetric")
    if float(H.diagonal().min()) < 0:
        fail("BAD_PROBLEM", path=name, reason="H has a negative diagonal entry")
    if largest == 0:
        return torch.eye(n, device=H.device), ["no calibration signal: every input counts the same"]
    dead = int((H.diagonal() == 0).sum())
    notes = [f"{dead} of {n} inputs are always zero in the calibration text"] if dead else []
    return H / 2 + H.T / 2 if asymmetry else H, notes


def damped(H: Tensor, damping: float) -> Tensor:
    """H + damping mean(diag H) I: a new (n, n) tensor in the dtype of H."""
    return _ordered(H, damping, torch.arange(len(H), device=H.device), H.dtype)


def _ordered(H: Tensor, damping: float, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """The damped H with its rows and columns in another order: the one copy of H that is made."""
    result = torch.empty_like(H, dtype=dtype)
    for rows, into in zip(columns.split(ROWS), result.split(ROWS), strict=True):
        into.copy_(H[rows].index_select(1, columns))
    diagonal = result.diagonal()
    diagonal.add_(damping * diagonal.mean())
    return result


def cholesky(H: Tensor, damping: float, name: str, *, columns: Tensor | None = None) -> tuple[Tensor, list[str]]:
    """Lower L: (n, n) float32 with L L^T = H + damping mean(diag H) I, finite, and notes on what it took.

    ``columns``: (n,), the order in which columns (and rows) of H are factorized, if not their own.

    Where float32 fails, float64 is tried, then ten, a hundred and a thousand times the damping. Raises
    ``QUANT_UNSTABLE`` when none of them works.
    """
    columns = torch.arange(len(H), device=H.device) if columns is None else columns
    if (L := _factor(H, damping, columns, torch.float32)) is not None:
        return L, []
    if (L := _factor(H, damping, columns, torch.float64)) is not None:
        return L, ["H is close to singular: factorized in float64"]
    for times in RAISED:
        raised = times * max(damping, 1e-3)
        if (L := _factor(H, raised, columns, torch.float64)) is not None:
            return L, [f"H is close to singular: damping raised to {raised:g}"]
    fail("QUANT_UNSTABLE", name=name, reason=f"H is not positive definite, even with damping {raised:g}")


def _factor(H: Tensor, damping: float, columns: Tensor, dtype: torch.dtype) -> Tensor | None:
    # Column-major and symmetric: what LAPACK works on in place, without a copy of its own.
    L = _ordered(H, damping, columns, dtype).mT
    info = torch.empty((), dtype=torch.int32, device=H.device)
    torch.linalg.cholesky_ex(L, out=(L, info))
    finite = all(bool(torch.isfinite(columns).all()) for columns in L.mT.split(ROWS))
    return L.to(torch.float32) if int(info) == 0 and finite else None
