"""Products with outliers apart: every width, symbol and instruction set against plain torch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from product_cases import check_product, inputs, rounded, threads

from quip_engine.codebooks.outlier import Outlier
from quip_engine.native import library
from quip_engine.products import Packed, product_of
from quip_engine.products import outlier as module

CPU = torch.device("cpu")
POSITIONS = [(0.05, 0), (0.05, 4), (0.01, 8), (0.3, 1), (0.5, 0)]  # ratio, bits of a symbol

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")


def random_bits(codebook: Outlier, m: int, n: int) -> Packed:
    """Every string of bits is a layer; gaps lead as far beyond the rows as they like."""
    generator, layout = torch.Generator().manual_seed(m + n), codebook.layout(m, n)
    tensors = {
        name: torch.randint(0, 256, spec.shape, generator=generator, dtype=torch.uint8)
        if spec.dtype == torch.uint8
        else torch.randn(spec.shape, generator=generator).to(spec.dtype)
        for name, spec in layout.items()
    }
    return Packed(codebook, tensors, m, n)


@pytest.mark.parametrize("bits", range(1, 5))
@pytest.mark.parametrize("grid", ["kmeans", "rtn"])
@pytest.mark.parametrize(("ratio", "index_bits"), POSITIONS)
def test_every_kind(bits: int, grid: str, ratio: float, index_bits: int) -> None:
    """Wider than a block of columns, too."""
    codebook = Outlier(bits=bits, grid=grid, ratio=ratio, index_bits=index_bits)
    for m, n, b in ((9, 256, 1), (5, 77, 6), (1, 1, 1), (6, 9000, 5)):
        check_product(random_bits(codebook, m, n), b)
    check_product(rounded(codebook, 7, 300), 3)


def test_numbers_are_those_of_the_codebook() -> None:
    codebook = Outlier()
    layer = rounded(codebook, 12, 200)
    W = codebook.decode(layer.tensors, 12, 200)
    product = product_of(codebook, CPU)
    assert product is not None
    assert torch.equal(product.unpack(layer, torch.float32), W)
    assert torch.equal(product.unpack(layer, torch.bfloat16), W.bfloat16())


def test_there_are_no_eight_bit_activations() -> None:
    assert product_of(Outlier(), CPU, "int8") is None


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1)
    layer, x = rounded(Outlier(), 51, 300), inputs(300, 5)
    product = module.OutlierProduct()
    with threads(1):
        alone, W = product.multiply(layer, x), product.unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product.multiply(layer, x), alone)
        assert torch.equal(product.unpack(layer, torch.float32), W)


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(Outlier(), CPU) is None


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(variants: dict[str, ctypes.CDLL], target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    for bits in range(1, 5):
        for grid in ("kmeans", "rtn"):
            for m, n, b in ((9, 150, 5), (2, 5000, 1)):
                check_product(random_bits(Outlier(bits=bits, grid=grid), m, n), b)
