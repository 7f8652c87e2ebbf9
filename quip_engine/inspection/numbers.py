"""What is to be seen of one layer, as plain numbers that a figure can draw.

    before  W           after  W~ = U diag(1/r) W diag(s) V^T          error  W^ - W

Sizes of weights are in units of the root mean square of their own matrix; the error is in that of W. A large matrix is
cut into tiles, of each of which the largest magnitude is kept, so that no outlier disappears.

| symbol    | here                                                                  |
|-----------|-----------------------------------------------------------------------|
| mu        | ``Incoherence``, with what QuIP# (arXiv 2402.04396) lemma 3.1 promises |
| lambda_i  | ``Spectrum``: eigenvalues of H over their mean, largest first         |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quip_engine.linalg.guarantee import hadamard_incoherence
from quip_engine.linalg.proxy import eigenvectors, hessian_incoherence, weight_incoherence
from quip_engine.transforms import Maps, Transform
from quip_engine.transforms.hadamard import RandomizedHadamard

TILES = 96  # on each side of a map
TOP = 8.0  # rms: what is larger has the last colour
REACH = 12.0  # rms: of the histogram at most
BINS = 97  # odd: one of them is around zero
POINTS = 160  # of a curve
HELD = 0.9  # of the trace
ROWS = 256  # looked at together


@dataclass(frozen=True)
class Maps8:
    """Three maps of the largest magnitude of each tile, as bytes: 255 stands for ``top`` rms and what is larger."""

    before: NDArray[np.uint8]  # (rows, columns), at most TILES each
    after: NDArray[np.uint8]
    error: NDArray[np.uint8]
    top: float
    tile: tuple[float, float]  # rows and columns of the matrix in a tile


@dataclass(frozen=True)
class Histogram:
    """Densities of weights over rms, in bins of equal width from -reach to reach; what is beyond is in no bin."""

    reach: float
    before: list[float]
    after: list[float]

    @property
    def centres(self) -> list[float]:
        width = 2 * self.reach / len(self.before)
        return [-self.reach + (k + 0.5) * width for k in range(len(self.before))]


@dataclass(frozen=True)
class Outliers:
    """The largest |w| of each row, over rms: in the order of rows (the largest of several where they are many)."""

    rows: list[int]  # number of the first row of each entry
    before: list[float]
    after: list[float]
    sorted_before: list[float]  # largest first, at POINTS places
    sorted_after: list[float]
    shares: list[float]  # of the rows up to these places
    beyond: tuple[int, int]  # weights of more than 5 rms, before and after
    worst: tuple[int, float]  # the row of the largest weight before, and its size


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of H over their mean, at ``ranks`` with equal logarithmic steps; the damping in the same unit."""

    ranks: list[int]
    values: list[float]
    width: int
    holding: int  # directions that hold HELD of the trace
    damping: float | None


@dataclass(frozen=True)
class Incoherence:
    """mu before and after the transform, 1 at best, and what it is promised to be at most; None: not known."""

    w_before: float
    w_after: float
    w_promised: float | None
    h_before: float | None
    h_after: float | None
    h_promised: float | None


def rms(W: Tensor) -> float:
    """Root mean square of W: (m, n); 1 for a zero matrix, whose weights then are zero in any unit."""
    return float(torch.linalg.vector_norm(W, dtype=torch.float64)) / math.sqrt(W.numel()) or 1.0


def tile_maps(W: Tensor, W_t: Tensor, error: Tensor) -> Maps8:
    """Maps of W, W~ and the error: (m, n) each, on one scale."""
    unit = rms(W)
    tiles = [_largest(W) / unit, _largest(W_t) / rms(W_t), _largest(error) / unit]
    top = min(TOP, max(1.0, math.ceil(max(float(t.max()) for t in tiles))))
    before, after, lost = ((t.clamp(max=top) * (255 / top)).round().to(torch.uint8).numpy() for t in tiles)
    m, n = W.shape
    return Maps8(before, after, lost, top, tile=(m / before.shape[0], n / before.shape[1]))


def _largest(W: Tensor) -> Tensor:
    """The largest magnitude in each tile of W: (m, n)."""
    size = [min(TILES, s) for s in W.shape]
    return torch.nn.functional.adaptive_max_pool2d(W.abs()[None, None], size)[0, 0]


def histogram(W: Tensor, W_t: Tensor) -> Histogram:
    """Of W and W~: (m, n), each over its own rms."""
    largest = max(float(W.abs().max()) / rms(W), float(W_t.abs().max()) / rms(W_t))
    reach = min(REACH, max(4.0, math.ceil(largest)))
    return Histogram(reach, _density(W, reach), _density(W_t, reach))


def _density(W: Tensor, reach: float) -> list[float]:
    unit = rms(W)
    counts = torch.histc(W / unit, BINS, -reach, reach).double()
    density: list[float] = (counts / (W.numel() * 2 * reach / BINS)).tolist()
    return density


def outliers(W: Tensor, W_t: Tensor) -> Outliers:
    """Of the rows of W and W~: (m, n)."""
    before, after = (A.abs().amax(1) / rms(A) for A in (W, W_t))
    m = len(before)
    shown = min(m, POINTS)
    first = [k * m // shown for k in range(shown)]
    places = sorted({round(k * (m - 1) / max(1, shown - 1)) for k in range(shown)})
    falling = [x.sort(descending=True).values[places].tolist() for x in (before, after)]
    pooled = [torch.nn.functional.adaptive_max_pool1d(x[None], shown)[0].tolist() for x in (before, after)]
    worst = int(before.argmax())
    return Outliers(
        rows=first,
        before=pooled[0],
        after=pooled[1],
        sorted_before=falling[0],
        sorted_after=falling[1],
        shares=[(k + 1) / m for k in places],
        beyond=(_beyond(W), _beyond(W_t)),
        worst=(worst, float(before[worst])),
    )


def _beyond(W: Tensor, times: float = 5.0) -> int:
    """Weights of more than ``times`` rms."""
    unit = rms(W)
    return sum(int((rows.abs() > times * unit).sum()) for rows in W.split(ROWS))


def spectrum(eigenvalues: Tensor, damping: float | None) -> Spectrum:
    """Of the eigenvalues of H: (n,), none negative, and the damping of the recipe in parts of their mean."""
    falling = eigenvalues.double().sort(descending=True).values
    values = falling / falling.mean().clamp_min(1e-300)
    n = len(values)
    holding = min(n, int((values.cumsum(0) < HELD * n).sum()) + 1)
    ranks = sorted({min(n, round(n ** (k / (POINTS - 1)))) for k in range(POINTS)})
    return Spectrum(ranks, [float(values[k - 1]) for k in ranks], n, holding, damping)


def incoherence(W: Tensor, H: Tensor, W_t: Tensor, maps: Maps, transform: Transform) -> Incoherence:
    """Of W: (m, n), H: (n, n) and W~; eigenvectors of a wide H are not looked for."""
    m, n = W.shape
    before = after = None
    if (Q := eigenvectors(H)) is not None:
        Q_t = maps.on_input(Q.T).T if maps.input_scale is None else eigenvectors(maps.hessian(H))
        before, after = hessian_incoherence(Q), None if Q_t is None else hessian_incoherence(Q_t)
    w, h = promised(transform, m, n)
    return Incoherence(weight_incoherence(W), weight_incoherence(W_t), w, before, after, h)


def promised(transform: Transform, m: int, n: int) -> tuple[float | None, float | None]:
    """mu_W and mu_H that a randomized Hadamard transform hardly ever exceeds, for m outputs and n inputs.

    None where nothing is known: QuIP's own bound has constants that are not.
    """
    if not isinstance(transform, RandomizedHadamard):
        return None, None
    w, h = hadamard_incoherence(m, n)
    return w if transform.sides == "both" else None, h if transform.sides in ("both", "input") else None
