"""Packed layers to time: random codes, since how long a product takes does not depend on what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from quip_engine.codebooks import Codebook
    from quip_engine.products import Packed

DEVIATION = 0.02  # of the weights
UNEVEN = 2.0  # standard deviation of log2 of what columns count, for codebooks that give columns rates


def random_layer(codebook: Codebook, m: int, n: int, generator: torch.Generator, spent: int = 0) -> Packed:
    """An m x n layer of a codebook with codes at random and scales as a real one has them.

    ``spent``: bits of its transform, for codebooks that count them.
    """
    import torch  # noqa: PLC0415 - takes seconds to import

    from quip_engine.codebooks.column_trellis import ColumnTrellis  # noqa: PLC0415
    from quip_engine.codebooks.outlier import Outlier  # noqa: PLC0415
    from quip_engine.products import Packed  # noqa: PLC0415
    from quip_engine.rounding.nearest import Nearest  # noqa: PLC0415

    if isinstance(codebook, Outlier | ColumnTrellis):  # their bytes depend on each other
        W = DEVIATION * torch.randn(m, n, generator=generator)
        importance = 2 ** (UNEVEN * torch.randn(n, generator=generator))
        quantizer = codebook.fit(W, importance.diag(), spent)
        if isinstance(codebook, Outlier):
            codes = Nearest().round(W, importance.diag(), quantizer, generator).codes
            return Packed(codebook, quantizer.pack(codes), m, n)
        tensors = quantizer.pack([torch.zeros(0, dtype=torch.uint8)] * n)  # of no bits: zeros are filled in
    else:
        tensors = {}
    for name, spec in codebook.layout(m, n, spent).items():
        if spec.dtype.is_floating_point:
            tensors.setdefault(name, torch.full(spec.shape, DEVIATION, dtype=spec.dtype))
        elif name not in ("rates", "scales"):
            octets = torch.randint(256, (*spec.shape, spec.dtype.itemsize), generator=generator, dtype=torch.uint8)
            tensors[name] = octets.view(spec.dtype)[..., 0]
    return Packed(codebook, tensors, m, n)
