"""Products with the lattice codes: all shapes, codes and instruction sets against plain torch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from product_cases import EXACT, INT8, check_product, inputs, relative_error, rounded, threads
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.d4 import D4
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.native import library
from quip_engine.products import Packed, product_of, reference
from quip_engine.products import lattice as module

CPU = torch.device("cpu")
CODEBOOKS = [E8P(), ResidualE8P(bits=3), ResidualE8P(bits=4), ResidualE8P(bits=4, published=True), D4()]
SHAPES = [(1, 1), (3, 8), (9, 21), (8, 512), (17, 515), (5, 1330), (20, 1024)]
TARGETS = ["x86-64-v3", "x86-64"]

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")
each_codebook = pytest.mark.parametrize("codebook", CODEBOOKS, ids=["e8p", "rvq-3", "rvq-4", "rvq-published", "d4"])


def made(codebook: Codebook, m: int, n: int, scale: float = 0.37) -> Packed:
    """Any codes; every one of E81B and D4 occurs."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"scale": torch.tensor([scale])}
    for name, spec in codebook.layout(m, n).items():
        if name != "scale":
            tensors[name] = torch.randint(0, 2**16, spec.shape, generator=generator).to(spec.dtype)
    return Packed(codebook, tensors, m, n)


@each_codebook
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_every_shape(codebook: Codebook, m: int, n: int) -> None:
    for b in (1, 2, 3, 4, 7):
        check_product(made(codebook, m, n), b)  # measured: up to 4e-7


@each_codebook
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_eight_bit_activations(codebook: Codebook, m: int, n: int) -> None:
    for b in (1, 2, 3, 4, 7):
        check_product(made(codebook, m, n), b, "int8", 2 * INT8)  # measured: up to 0.002 with AVX-512, else 0.007


@each_codebook
def test_eight_bit_activations_of_wide_layers(codebook: Codebook) -> None:
    """Measured: 2e-5, of two stages 0.0015; without AVX-512 0.0036."""
    check_product(made(codebook, 200, 4096), 5, "int8", INT8)


def test_every_e8p_code() -> None:
    codes = torch.arange(65536).to(torch.int16).view(64, 1024)
    layer = Packed(E8P(), {"codes": codes, "scale": torch.tensor([4.0])}, 64, 8192)
    product = module.LatticeProduct()
    assert torch.equal(product.unpack(layer, torch.float32), E8P().decode(layer.tensors, 64, 8192))
    columns = torch.zeros(8, 8192).view(8, 1024, 8)
    columns[:, 5] = torch.eye(8)
    y = product.multiply(layer, columns.view(8, 8192))
    assert torch.equal(y, E8P().decode(layer.tensors, 64, 8192)[:, 40:48].T)


@each_codebook
def test_numbers_are_those_of_the_codebook(codebook: Codebook) -> None:
    layer = rounded(codebook, 12, 200)
    W, product = codebook.decode(layer.tensors, 12, 200), module.LatticeProduct()
    assert torch.allclose(product.unpack(layer, torch.float32), W, rtol=1e-6, atol=1e-7)
    exact = product.unpack(layer, torch.float32)
    assert torch.equal(product.unpack(layer, torch.bfloat16), exact.bfloat16())
    if not isinstance(codebook, ResidualE8P):
        assert torch.equal(exact, W)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_activations_of_every_size(size: float) -> None:
    layer, x = made(E8P(), 9, 600), inputs(600, 2) * size
    x[:, 16:32] = 0
    y = module.LatticeProduct().multiply(layer, x)
    assert relative_error(y / size, reference(layer, x) / size) <= EXACT


@pytest.mark.parametrize("activations", ["float", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value: float, activations: str) -> None:
    layer, x = made(E8P(), 9, 600), inputs(600, 2)
    x[1, 300] = value
    y = module.LatticeProduct().multiply(layer, x, activations)
    assert y[0].isfinite().all() and not y[1].isfinite().any()


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_no_weights(activations: str) -> None:
    y = module.LatticeProduct().multiply(made(ResidualE8P(bits=3), 5, 100, scale=0.0), inputs(100, 2), activations)
    assert torch.equal(y, torch.zeros(2, 5))


@each_codebook
@pytest.mark.parametrize("activations", ["float", "int8"])
def test_threads_change_nothing(codebook: Codebook, activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1)
    layer, x, product = made(codebook, 51, 700), inputs(700, 5), module.LatticeProduct()
    with threads(1):
        alone, W = product.multiply(layer, x, activations), product.unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product.multiply(layer, x, activations), alone)
        assert torch.equal(product.unpack(layer, torch.float32), W)


@each_codebook
def test_nothing_behind_the_codes_is_read(codebook: Codebook) -> None:
    """The codes end at a page that may not be read."""
    import mmap

    page, layer = mmap.PAGESIZE, made(codebook, 5, 300)
    kept = dict(layer.tensors)
    areas = []
    for name in {"codes", "residual_codes"} & set(kept):
        areas.append(mmap.mmap(-1, 2 * page))
        start = ctypes.addressof(ctypes.c_char.from_buffer(areas[-1]))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
        kept[name] = at_the_end(areas[-1], page, layer.tensors[name])
    for b in (1, 4):
        check_product(Packed(codebook, kept, 5, 300), b)


def at_the_end(area: object, page: int, codes: Tensor) -> Tensor:
    memory = torch.frombuffer(area, dtype=codes.dtype, count=page // codes.element_size())
    return memory[memory.numel() - codes.numel() :].view_as(codes).copy_(codes)


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(E8P(), CPU) is None


def test_what_it_runs_on_is_named() -> None:
    assert module.LatticeProduct().kernel(E8P(), CPU) in {"AVX-512 VBMI", "AVX2", "NEON", "plain C"}


@each_codebook
@pytest.mark.parametrize("target", TARGETS)
def test_other_instruction_sets(
    variants: dict[str, ctypes.CDLL], codebook: Codebook, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    for m, n in SHAPES:
        for b in (1, 3, 5):
            check_product(made(codebook, m, n), b)
            check_product(made(codebook, m, n), b, "int8", 2 * INT8)  # five large entries count for more here
    check_product(made(codebook, 200, 4096), 5, "int8", INT8)  # measured: 0.0036
