"""H = E[x x^T] of a layer's inputs: gathered, checked, damped and factorized.

    H = (1/T) sum_t w_t x_t x_t^T        H_damped = H + damping mean(diag H) I        H_damped = L L^T

w_t = 1 unless tokens count unequally (``sensitivity``).

QuIP (arXiv 2307.13304, section 5) and QuIP# (arXiv 2402.04396, appendix F). Calibration text shorter than the width
leaves H singular, an input that is always zero leaves a zero row: damping makes both regular. A factorization is no
test of its input (one NaN in the upper triangle passes unseen, an infinity comes back as NaN), so H is tested first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quip_engine.errors import fail
from quip_engine.linalg.symmetric import WIDTH, LowerHalf

ASYMMETRY = 1e-4  # largest |H - H^T| allowed, relative to max |H|: far above float32 rounding, far below a wrong file
ROWS = 256  # looked at together, so that no step needs another (n, n) matrix
NO_SIGNAL, SINGULAR = "no calibration signal", "H is close to singular"  # how notes on what it took begin
RAISED = (10, 100, 1000)  # times the asked damping (at least 0.001), in float64, where all else has failed


class Hessian:
    """The running mean of x x^T. Holds half an (n, n) float32 matrix, whatever the number of tokens."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self._mean = LowerHalf(n, device)  # (1/T) X^T X
        self._device = device
        self.tokens = 0  # T

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Take in the inputs x: (..., n) of any float dtype; each row is a token, and counts with ``weights``: (T,)."""
        X = x.detach().reshape(-1, x.shape[-1]).to(self._device, torch.float32)
        if len(X) == 0:
            return
        total = self.tokens + len(X)
        # The mean, not the sum: no growth towards overflow, and no second matrix to divide into.
        weighted = X if weights is None else X * weights.to(X)[:, None]
        for start, panel in self._mean.panels():
            here = weighted[:, start : start + WIDTH]
            panel.addmm_(X[:, start:].T, here, beta=self.tokens / total, alpha=1 / total)
        self.tokens = total

    def blend_(self, other: Hessian, share: float) -> None:
        """Become share H + (1 - share) H_other, with the tokens of H."""
        for (_, panel), (_, theirs) in zip(self._mean.panels(), other._mean.panels(), strict=True):
            panel.mul_(share).add_(theirs, alpha=1 - share)

    def matrix(self) -> Tensor:
        """H: (n, n) float32, exactly symmetric; a new tensor."""
        return self._mean.write_(torch.empty(self._mean.n, self._mean.n, device=self._device))


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
        return torch.eye(n, device=H.device), [f"{NO_SIGNAL}: every input counts the same"]
    dead = int((H.diagonal() == 0).sum())
    notes = [f"{dead} of {n} inputs are always zero in the calibration text"] if dead else []
    return H / 2 + H.T / 2 if asymmetry else H, notes


def damped(H: Tensor, damping: float) -> Tensor:
    """H + damping mean(diag H) I: a new (n, n) tensor in the dtype of H."""
    result = H.clone()
    result.diagonal().add_(damping * H.diagonal().mean())
    return result


def reorder_(H: Tensor, columns: Tensor) -> None:
    """Put the rows and columns of H: (n, n) into the order ``columns``: (n,), in place."""
    for rows in H.split(ROWS):
        rows.copy_(rows.index_select(1, columns))
    reorder_rows_(H, columns)


def reorder_rows_(W: Tensor, rows: Tensor) -> None:
    """Put the rows of W: (n, m) into the order ``rows``: (n,), in place."""
    for columns in W.split(ROWS, 1):
        columns.copy_(columns.index_select(0, rows))


def cholesky(H: Tensor, damping: float, name: str, *, columns: Tensor | None = None) -> tuple[Tensor, list[str]]:
    """Lower L: (n, n) float32 with L L^T = H + damping mean(diag H) I, finite, and notes on what it took.

    ``columns``: (n,), the order in which columns (and rows) of H are factorized, if not their own. Raises like
    ``cholesky_``.
    """
    L = H.clone()
    if columns is not None:
        reorder_(L, columns)
    notes = cholesky_(L, damping, name).notes
    return L.tril_(), notes


class Damped(NamedTuple):
    """What a factorization in place leaves to know of H."""

    diagonal: Tensor  # (n,) of H
    ridge: Tensor  # added to it
    notes: list[str]  # on what it took


def cholesky_(H: Tensor, damping: float, name: str) -> Damped:
    """Write lower L, L L^T = H + damping mean(diag H) I, over a symmetric H: (n, n) float32.

    What is above the diagonal stays, so that H can be had again (``restore_``): a symmetric matrix and its factor need
    the room of one.

    Where float32 fails, float64 is tried, then ten, a hundred and a thousand times the damping. Raises
    ``QUANT_UNSTABLE`` when none of them works; H is then what it was.
    """
    diagonal = H.diagonal().clone()
    ridge = damping * diagonal.mean()
    H.diagonal().add_(ridge)
    if _factorize_(H):
        return Damped(diagonal, ridge, [])
    restore_(H, diagonal)
    for times in (1, *RAISED):
        raised = damping if times == 1 else times * max(damping, 1e-3)
        wide = H.double()
        ridge = raised * wide.diagonal().mean()
        wide.diagonal().add_(ridge)
        if _factorize_(wide):
            H.copy_(wide)
            done = "factorized in float64" if times == 1 else f"damping raised to {raised:g}"
            return Damped(diagonal, ridge.float(), [f"{SINGULAR}: {done}"])
    fail("QUANT_UNSTABLE", name=name, reason=f"H is not positive definite, even with damping {raised:g}")


def restore_(H: Tensor, diagonal: Tensor) -> None:
    """Make H: (n, n) symmetric again with what is above its diagonal, and ``diagonal``: (n,)."""
    for start in range(0, len(H), ROWS):
        here, after = slice(start, start + ROWS), slice(start + ROWS, None)
        above = H[here, here].triu(1)
        H[here, here] = above + above.T
        H[after, here] = H[here, after].T
    H.diagonal().copy_(diagonal)


def _factorize_(H: Tensor) -> bool:
    """Write the Cholesky factor over the lower triangle, some columns at a time; whether there is a finite one."""
    for start in range(0, len(H), ROWS):
        here, below = slice(start, start + ROWS), slice(start + ROWS, None)
        before, corner, panel = H[here, :start], H[here, here], H[below, here]
        C, info = torch.linalg.cholesky_ex(torch.addmm(corner, before, before.T, alpha=-1))
        if int(info):
            return False
        corner.copy_(C + corner.triu(1))
        panel.addmm_(H[below, :start], before.T, alpha=-1)
        panel.copy_(torch.linalg.solve_triangular(C.T, panel, upper=True, left=False))
    return all(bool(torch.isfinite(rows).all()) for rows in H.split(ROWS))
