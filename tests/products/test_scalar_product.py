"""Products with uniform grids: every width, group and instruction set against plain torch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from product_cases import INT8, check_product, inputs, rounded, threads

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.grid import Grid, RowGrid
from quip_engine.config import ACTIVATIONS
from quip_engine.native import library
from quip_engine.products import Packed, product_of
from quip_engine.products import scalar as module

CPU = torch.device("cpu")
SHAPES = [(9, 256), (6, 77), (5, 1), (1, 8), (7, 300)]

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")


def grids(bits: int) -> list[Codebook]:
    rows = [RowGrid(bits=bits, group=group, symmetric=group == 32) for group in (0, 3, 32, 64, 100)]
    return [Grid(bits=bits), *rows]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_every_grid(bits: int, m: int, n: int) -> None:
    for codebook in grids(bits):
        layer = rounded(codebook, m, n)
        for b in (1, 3, 6):
            check_product(layer, b)


needs_int8 = pytest.mark.skipif(product_of(Grid(), CPU, "int8") is None, reason="needs AVX-512 VNNI")


@needs_int8
@pytest.mark.parametrize("bits", range(1, 9))
def test_eight_bit_activations(bits: int) -> None:
    """Measured: 0.0039 to 0.0042; at widths of thousands 0.003."""
    for codebook in grids(bits):
        check_product(rounded(codebook, 200, 384), 5, "int8", INT8)


def test_numbers_are_those_of_the_codebook() -> None:
    for codebook in grids(3):
        layer = rounded(codebook, 12, 200)
        W = codebook.decode(layer.tensors, 12, 200)
        product = product_of(codebook, CPU)
        assert product is not None
        assert torch.equal(product.unpack(layer, torch.float32), W)
        assert torch.equal(product.unpack(layer, torch.bfloat16), W.bfloat16())


def test_steps_of_every_size() -> None:
    """Normal and subnormal float16, and the largest."""
    codebook = RowGrid(bits=2)
    layer = rounded(codebook, 4, 64)
    layer.tensors["step"] = torch.tensor([[65504.0], [1.0], [3e-5], [2**-24]]).half()
    W = codebook.decode(layer.tensors, 4, 64)
    product = product_of(codebook, CPU)
    assert product is not None and torch.equal(product.unpack(layer, torch.float32), W)


@pytest.mark.parametrize("activations", ["float", pytest.param("int8", marks=needs_int8)])
def test_threads_change_nothing(activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1)
    layer, x = rounded(RowGrid(bits=4, group=64), 51, 300), inputs(300, 5)
    product = module.GridProduct()
    with threads(1):
        alone, W = product.multiply(layer, x, activations), product.unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product.multiply(layer, x, activations), alone)
        assert torch.equal(product.unpack(layer, torch.float32), W)


def test_nothing_behind_the_codes_is_read() -> None:
    """The last rows of an array that ends at a page that may not be read."""
    import mmap

    codebook, page = Grid(bits=2), mmap.PAGESIZE
    area = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
    layer = rounded(codebook, 5, 300)
    codes = layer.tensors["codes"]
    kept = torch.frombuffer(area, dtype=torch.uint8, count=page)[page - codes.numel() :].view_as(codes)
    for activations in ACTIVATIONS:
        if product := product_of(codebook, CPU, activations):
            product.multiply(Packed(codebook, {**layer.tensors, "codes": kept.copy_(codes)}, 5, 300), inputs(300, 2))
    check_product(Packed(codebook, {**layer.tensors, "codes": kept}, 5, 300))


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(Grid(), CPU) is None


def test_what_it_runs_on_is_named() -> None:
    assert module.GridProduct().kernel(Grid(), CPU) in {"AVX-512 VBMI", "C"}


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(variants: dict[str, ctypes.CDLL], target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    for bits in range(1, 9):
        for codebook in grids(bits):
            layer = rounded(codebook, 9, 150)
            check_product(layer, 5)
    assert product_of(Grid(), CPU, "int8") is None
