"""Many rows of x: the layer unpacked some rows at a time, or whole."""

from __future__ import annotations

import pytest
import torch
from product_cases import inputs, rounded, threads

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_trellis import ColumnTrellis
from quip_engine.codebooks.d4 import D4
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.codebooks.grid import Grid, RowGrid
from quip_engine.codebooks.outlier import Outlier
from quip_engine.codebooks.trellis import Trellis
from quip_engine.native import library
from quip_engine.products import RowProduct, base, packed_product, product_of

CODEBOOKS = [E8P(), ResidualE8P(bits=3), D4(), Grid(), RowGrid(bits=4, group=32), Outlier(), Trellis(L=12)]
CODEBOOKS.append(ColumnTrellis(L=8, group=8))
DTYPES = [torch.float32, torch.bfloat16]

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("codebook", CODEBOOKS, ids=lambda codebook: codebook.described())
def test_tiles_change_nothing(codebook: Codebook, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = rounded(codebook, 550, 72), inputs(72, 40)
    product = product_of(codebook, layer.device)
    assert isinstance(product, RowProduct)
    whole = packed_product(layer, x, dtype=dtype)
    monkeypatch.setattr(base, "HEIGHT", 100)  # of the trellis 96, of the water-filled one a string, about 256
    assert product.together(layer) < 550
    for count in (1, 2):
        with threads(count):
            y = packed_product(layer, x, dtype=dtype)
        assert y.dtype == torch.float32
        limit = 1e-6 if dtype == torch.float32 else 4e-3  # measured: equal
        assert (y - whole).norm() <= limit * whole.norm()


@pytest.mark.parametrize("codebook", CODEBOOKS, ids=lambda codebook: codebook.described())
def test_rows_are_those_of_the_whole(codebook: Codebook) -> None:
    layer = rounded(codebook, 550, 72)
    product = product_of(codebook, layer.device)
    assert isinstance(product, RowProduct)
    W, start = product.unpack(layer, torch.float32), product.together(layer)
    rest = torch.empty(550 - start, 72)
    product.unpack_rows(layer, rest, start)
    assert torch.equal(rest, W[start:])
