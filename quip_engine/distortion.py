"""What a codebook costs on a standard Gaussian source, whatever the method around it.

    mse = E (x - q(x))^2,  x ~ N(0, 1)        no code of R bits does better than 4^-R

The source is a matrix of WIDTH columns, rounded to nearest, packed, and decoded again.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from quip_engine.codebooks import Codebook
from quip_engine.layer import stored_bits
from quip_engine.rounding.nearest import Nearest

WIDTH = 256
USUAL = 2**16  # numbers: its mse is right within 1 %


def gaussian_distortion(codebook: Codebook, samples: int, seed: int) -> tuple[float, float]:
    """Mean squared error of ``samples`` standard normal numbers, and every stored bit per number."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(-(-samples // WIDTH), WIDTH, generator=generator)
    H = torch.eye(WIDTH)
    quantizer = codebook.fit(X, H)
    tensors = quantizer.pack(Nearest().round(X, H, quantizer, generator).codes)
    error = (codebook.decode(tensors, *X.shape) - X).flatten()[:samples]
    return float(error.double().square().mean()), stored_bits(tensors) / X.numel()


@lru_cache(maxsize=64)
def usual_distortion(codebook: Codebook) -> float:
    """The mean squared error alone, right within 1 %."""
    return gaussian_distortion(codebook, USUAL, 0)[0]
