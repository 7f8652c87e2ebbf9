"""What theory says about the loss of a layer, beside what was measured.

A code whose error is independent of the weights and has variance s^2 per weight loses, relative to tr(W H W^T):

    without feedback       m s^2 tr(H)                          every weight by itself
    with LDLQ              m s^2 tr(D)                          QuIP (arXiv 2307.13304) theorem 1, the average case
    whatever D is          g m s^2 mu^2 / n tr(H^1/2)^2         QuIP lemma 2 (g = 1), QuIP# (2402.04396) theorem 4.1
    no code can do better  sum_i min(theta, lambda_i)           reverse water-filling (``bound``)

with H + ridge = L D L^T in the basis of the transform, in blocks of g columns, and H mu-incoherent there. A transform
lowers mu, not tr(H^1/2): the third line is what it guarantees. s^2 = mse times the mean square of W~, where mse is the
error of the codebook on a standard Gaussian. A randomized Hadamard transform has, with probability 1 - delta,
mu_H <= sqrt(2 ln(2 n^2 / delta)) and mu_W <= 2 ln(4 m n / delta) (QuIP# lemma 3.1).

A code with a rate for each column may fall below the second line, none below the last by more than chance. How far the
measured loss is from the last line is told in bits: what the code would need to get there is what it has too many.

| paper         | here                                                   |
|---------------|--------------------------------------------------------|
| tr(D) / tr(H) | ``feedback``: what LDLQ leaves of the loss             |
| tr(H^1/2)^2   | ``flatness``: over n tr(H), 1 where all directions count alike |
| m s^2 tr(H)   | ``energy`` mse: ``energy`` is m mean(W~^2) tr(H) / tr(W H W^T) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from quip_engine.errors import QuipError
from quip_engine.linalg.bound import rate_distortion_bound
from quip_engine.linalg.hessian import cholesky_, restore_

RIDGE = 0.01  # of the mean diagonal of H, as LDLQ usually has it
DELTA = 0.01  # how often the incoherence of a random rotation may be larger
SEARCHED = 40  # halvings of the interval in which a rate is looked for: to 1e-10 bits
WIDEST_RATE = 32.0


@dataclass(frozen=True)
class Traces:
    """What bounds are made of. None: not known, as all that needs eigenvalues is at large widths."""

    feedback: float | None = None
    energy: float | None = None
    flatness: float | None = None
    limit: float | None = None  # least relative loss of any code at the bits of this layer
    distance: float | None = None  # bits per weight between the measured loss and that limit
    block: int = 1  # columns rounded together


@dataclass(frozen=True)
class Bounds:
    """Relative losses. The measured one is expected near ``average`` and must stay below ``incoherence``."""

    nearest: float | None
    average: float | None
    incoherence: float | None
    a_priori: float | None  # the same with the mu that a randomized Hadamard transform has with probability 1 - DELTA
    limit: float | None


def feedback_ratio(H: Tensor, block: int = 1) -> float | None:
    """tr(D) / tr(H) of H: (n, n), both with a ridge, D in blocks. 1 for a diagonal H, None for one without a factor.

    H is worked in, and is then what it was.
    """
    try:
        known = cholesky_(H, RIDGE, "H")
    except QuipError:
        return None
    blocks = (H[k : k + block, k : k + block].tril() for k in range(0, len(H), block))
    kept = sum(float(B.double().square().sum()) for B in blocks)
    restore_(H, known.diagonal)
    return kept / max(float((known.diagonal.double() + known.ridge).sum()), 1e-300)


def traces(
    energy: tuple[float, float],
    feedback: float | None,
    spectra: tuple[Tensor | None, Tensor | None],
    bits: float,
    loss: float,
) -> Traces:
    """Traces of a layer that lost ``loss`` at ``bits`` per weight.

    ``energy`` (of ``energy_of``) and ``spectra`` (eigenvalues of H: (n,), or None) before and after the transform;
    rotations change neither.
    """
    before, after = spectra
    limit = distance = None
    if before is not None:
        values = before.double().clamp(min=0)
        limit = energy[0] * rate_distortion_bound(values, bits)
        distance = bits - rate_of(loss / max(energy[0], 1e-300), values)
    return Traces(feedback, energy[1], None if after is None else _flatness(after), limit, distance)


def energy_of(squared: float, H: Tensor, own: float) -> float:
    """m mean(W^2) tr(H) / own of a W: (m, n) with |W|_F^2 = ``squared``; ``own`` is tr(W H W^T) of the layer."""
    return squared / len(H) * float(H.diagonal().double().sum()) / max(own, 1e-300)


def eigenvalues_of(H: Tensor, Q: Tensor) -> Tensor:
    """(n,) of H: (n, n) with the eigenvectors Q: (n, n), one per column; in their order."""
    return (Q * (H @ Q)).sum(0)


def _flatness(eigenvalues: Tensor) -> float:
    """tr(H^1/2)^2 / (n tr(H))."""
    values = eigenvalues.double().clamp(min=0)
    return float(values.sqrt().sum()) ** 2 / (len(values) * max(float(values.sum()), 1e-300))


def rate_of(loss: float, eigenvalues: Tensor) -> float:
    """Bits per weight at which ``rate_distortion_bound`` is ``loss``; 0 for a loss of 1 and more."""
    low, high = 0.0, WIDEST_RATE
    if loss >= 1:
        return 0.0
    for _ in range(SEARCHED):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_distortion_bound(eigenvalues, middle) > loss else (low, middle)
    return (low + high) / 2


def bounds(found: Traces, mse: float, mu: float | None, n: int) -> Bounds:
    """The lines of theory for a code of this ``mse``, of a layer with n inputs and the mu of its H~."""
    if found.energy is None:
        return Bounds(None, None, None, None, found.limit)
    nearest = found.energy * mse
    each = None if found.flatness is None else found.block * nearest * found.flatness  # for mu = 1
    return Bounds(
        nearest=nearest,
        average=None if found.feedback is None else nearest * found.feedback,
        incoherence=None if each is None or mu is None else each * mu**2,
        a_priori=None if each is None else each * hadamard_incoherence(1, n)[1] ** 2,
        limit=found.limit,
    )


def hadamard_incoherence(m: int, n: int) -> tuple[float, float]:
    """mu of W~: (m, n) and of H~ after a randomized Hadamard transform, at most, each with probability 1 - DELTA."""
    return 2 * math.log(4 * m * n / DELTA), math.sqrt(2 * math.log(2 * n**2 / DELTA))
