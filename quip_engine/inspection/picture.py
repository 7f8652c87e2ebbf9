"""A codebook as one can see it: the levels of a row, the points of a lattice, or a place beside the limit.

- scalar codebooks: the levels of a typical row over the rms of all weights, and how often each is used;
- E8P: neighbouring coordinates of its points, (x_1, x_2), (x_3, x_4), ...: two square lattices, shifted by +-1/4, and
  the share of the weights at each of their places; and how many of the 65,536 points are in use;
- all: the error of the codebook on a standard Gaussian at its rate, beside 4^-R, which no code of that rate can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.outlier import Outlier
from quip_engine.codebooks.scalar import ScalarCodebook
from quip_engine.distortion import gaussian_distortion
from quip_engine.inspection.numbers import rms

SAMPLES = 2**14  # drawn from the Gaussian source: the mse is then known to a hundredth
# Least squared error of evenly spaced levels on a standard Gaussian: J. Max, Quantizing for minimum distortion, 1960.
UNIFORM = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154}


@dataclass(frozen=True)
class Distortion:
    """Squared error of a codebook on a standard Gaussian at ``bits`` per number, all that is stored counted."""

    bits: float
    mse: float

    @property
    def limit(self) -> float:
        return float(4**-self.bits)


@dataclass(frozen=True)
class Levels:
    """Levels of one row over the rms of all transformed weights, and the share of its weights on each."""

    row: int
    values: list[float]
    shares: list[float]


@dataclass(frozen=True)
class Points:
    """Places of neighbouring coordinates, in units of the lattice, and the share of all pairs at each."""

    x: list[float]
    y: list[float]
    shares: list[float]
    used: int  # points of the codebook that are in use
    size: int  # points that it has


@dataclass(frozen=True)
class Picture:
    """What can be seen of the codebook of a layer; ``levels`` and ``points`` only where it has such."""

    codebook: str
    distortion: Distortion
    levels: Levels | None = None
    points: Points | None = None


def picture(codebook: Codebook, tensors: dict[str, Tensor], W_q: Tensor) -> Picture:
    """Of a layer whose stored ``tensors`` decode to W_q: (m, n), in the basis of the transform."""
    levels = points = None
    if isinstance(codebook, ScalarCodebook | Outlier):
        levels = _levels(W_q)
    elif isinstance(codebook, E8P):
        points = _points(W_q / tensors["scale"].clamp_min(1e-30), tensors["codes"])
    return Picture(codebook.name, distortion(codebook), levels, points)


@lru_cache(maxsize=64)
def distortion(codebook: Codebook) -> Distortion:
    """Measured, for the codebook by itself."""
    mse, bits = gaussian_distortion(codebook, SAMPLES, 0)
    return Distortion(bits, mse)


def _levels(W_q: Tensor) -> Levels:
    """Of the row whose norm is the median."""
    norms = torch.linalg.vector_norm(W_q, dim=1)
    row = int(norms.argsort()[len(norms) // 2])
    values, counts = W_q[row].unique(return_counts=True)
    return Levels(row, (values / rms(W_q)).tolist(), (counts / W_q.shape[1]).tolist())


def _points(x: Tensor, codes: Tensor) -> Points:
    """Pairs of columns of x: (m, n), multiples of 1/4 in units of the lattice."""
    pairs = (x[:, : x.shape[1] // 2 * 2].reshape(-1, 2) * 4).round().int()
    places, counts = pairs.unique(dim=0, return_counts=True)
    first, second = (places.T / 4).tolist()
    shares = (counts / len(pairs)).tolist()
    return Points(first, second, shares, len(codes.unique()), 2**16)
