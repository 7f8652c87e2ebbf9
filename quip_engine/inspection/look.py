"""Look at one layer: what its weights and inputs are like, what the transform makes of them, and what was lost.

A layer is looked at as it is stored, whether a finished run stored it or it was quantized just now:

    W~ = B^-1 W A^-1        W^ = B decode(codes) A        error = W^ - W
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quip_engine.inspection.numbers import (
    Histogram,
    Incoherence,
    Maps8,
    Outliers,
    Spectrum,
    histogram,
    incoherence,
    outliers,
    spectrum,
    tile_maps,
)
from quip_engine.inspection.picture import Picture, picture
from quip_engine.layer import LayerFormat, squared_norm, stored_bits
from quip_engine.linalg.bound import eigenvalues, relative_proxy_bound
from quip_engine.linalg.hessian import check_hessian
from quip_engine.linalg.proxy import proxy_loss


@dataclass(frozen=True)
class Inspection:
    """One layer in numbers. Losses are relative and measured with the undamped H."""

    shape: tuple[int, int]
    transform: str  # with the options that are not as usual
    bits_per_weight: float
    bytes: int
    rel_proxy: float
    rel_mse: float
    least: float | None  # proxy loss that no code of this rate goes below; None where H is too wide
    maps: Maps8
    histogram: Histogram
    outliers: Outliers
    spectrum: Spectrum | None  # None where H is too wide
    incoherence: Incoherence
    picture: Picture


def inspection(
    W: Tensor, H: Tensor, format: LayerFormat, tensors: dict[str, Tensor], damping: float | None = None
) -> Inspection:
    """Of W: (m, n) and H: (n, n), stored in ``format`` as ``tensors``; ``damping`` of its rounding, if it has any."""
    m, n = W.shape
    H, _ = check_hessian(H, n, "This layer")
    maps = format.maps(tensors, m, n)
    W_t = maps.weight(W)
    decoded = format.codebook.decode(tensors, m, n)
    seen = picture(format.codebook, tensors, decoded)
    W_hat = maps.inverse(decoded)
    error = W_hat - W
    values, bits = eigenvalues(H), stored_bits(tensors)
    return Inspection(
        shape=(m, n),
        transform=format.transform.described(),
        bits_per_weight=bits / (m * n),
        bytes=bits // 8,
        rel_proxy=proxy_loss(W, W_hat, H),
        rel_mse=squared_norm(error) / max(squared_norm(W), 1e-300),
        least=None if values is None else relative_proxy_bound(W, H, values, bits / (m * n)),
        maps=tile_maps(W, W_t, error),
        histogram=histogram(W, W_t),
        outliers=outliers(W, W_t),
        spectrum=None if values is None else spectrum(values, damping),
        incoherence=incoherence(W, H, W_t, maps, format.transform),
        picture=seen,
    )
