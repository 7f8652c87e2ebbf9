"""Products with trellis tiles: every code, rate, state size and instruction set against plain torch."""

from __future__ import annotations

import ctypes
import mmap

import pytest
import torch
from product_cases import INT8, check_product, inputs, relative_error, rounded, threads

from quip_engine.codebooks.trellis import Trellis
from quip_engine.codebooks.trellis_codes import CODES, TRAINED_SIZES
from quip_engine.native import library
from quip_engine.products import Packed, product_of, reference
from quip_engine.products import trellis as module

CPU = torch.device("cpu")
SHAPES = [(40, 37), (16, 16), (1, 1), (33, 130)]

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")
has_int8 = product_of(Trellis(code="mul1"), CPU, "int8") is not None
has_levels = product_of(Trellis(code="levels"), CPU, "int8") is not None
needs_int8 = pytest.mark.skipif(not has_int8, reason="needs AVX-512 VNNI")
needs_levels = pytest.mark.skipif(not has_levels, reason="needs AVX-512 VBMI")


def random_layer(form: Trellis, m: int, n: int, seed: int = 0) -> Packed:
    """Random bits: every string of bits is a path."""
    generator = torch.Generator().manual_seed(seed)
    shape = form.layout(m, n)["codes"].shape
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Packed(form, {"codes": codes, "scale": torch.tensor([0.7])}, m, n)


def forms(bits: int) -> list[Trellis]:
    return [
        Trellis(bits=bits, L=L, code=code)
        for code in CODES
        for L in (8, 11, 12, 13, 16)
        if code != "trained" or L in TRAINED_SIZES
    ]


def product() -> module.TrellisProduct:
    return module.TrellisProduct()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_every_code_and_size(bits: int, m: int, n: int) -> None:
    for form in forms(bits):
        layer = random_layer(form, m, n, form.L)
        for b in (1, 6):
            check_product(layer, b)


@pytest.mark.parametrize("code", ["1mad", "mul1", "3inst", "quantile", "levels", "hyb"])
def test_unpacked_numbers_are_those_of_the_codebook(code: str) -> None:
    """All states of L = 16 come up in a matrix of this size."""
    layer = random_layer(Trellis(L=16, code=code), 512, 1024)
    W = layer.codebook.decode(layer.tensors, 512, 1024)
    there = product().unpack(layer, torch.float32)
    assert ((there - W).abs() <= 3e-7 * W.abs()).all()  # products with a scale and with the code's unit differ in order
    assert torch.equal(product().unpack(layer, torch.bfloat16), there.bfloat16())


@pytest.mark.parametrize(
    "code",
    [*(pytest.param(code, marks=needs_int8) for code in ("1mad", "mul1")), pytest.param("levels", marks=needs_levels)],
)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_eight_bit_activations(code: str, bits: int) -> None:
    """Measured: 0.0032 to 0.0044; at a width of 4096 0.0024 to 0.0043."""
    for n in (500, 768):
        for b in (1, 5):
            check_product(random_layer(Trellis(bits=bits, L=12, code=code), 200, n), b, "int8", INT8)


@pytest.mark.parametrize("code", [pytest.param("mul1", marks=needs_int8), pytest.param("levels", marks=needs_levels)])
def test_eight_bit_activations_of_zero_and_far_from_zero(code: str) -> None:
    layer = random_layer(Trellis(code=code), 32, 256)
    assert not product().multiply(layer, torch.zeros(2, 256), "int8").any()
    x = inputs(256) + 100
    assert relative_error(product().multiply(layer, x, "int8"), reference(layer, x)) <= INT8


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_three_digits_lose_no_more_than_float32(bits: int) -> None:
    """Against float64, far from zero, too, where what is added to levels must fall out exactly. Measured: 3e-7."""
    for L in range(8, 17):
        layer = random_layer(Trellis(bits=bits, L=L, code="levels"), 48, 400, L)
        W = layer.codebook.decode(layer.tensors, 48, 400)
        for x in (inputs(400), 1e-6 * inputs(400), 1e30 * inputs(400) + 1e32):
            truth = x.double() @ W.double().T
            assert relative_error(product().multiply(layer, x), truth) <= 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen(value: float) -> None:
    layer, x = random_layer(Trellis(code="levels"), 32, 256), inputs(256)
    x[0, 77] = value
    assert not product().multiply(layer, x).isfinite().any()
    x[0, 78] = float("-inf")
    assert not product().multiply(layer, x).isfinite().any()


def test_other_codes_have_float_activations_only() -> None:
    for code in ("3inst", "quantile", "trained", "hyb"):
        assert product_of(Trellis(code=code), CPU, "int8") is None


def test_a_rounded_layer() -> None:
    check_product(rounded(Trellis(L=8), 40, 40), 2)


@pytest.mark.parametrize(
    ("code", "activations"),
    [
        *(("mul1", "float"), ("quantile", "float"), ("levels", "float")),
        pytest.param("mul1", "int8", marks=needs_int8),
        pytest.param("levels", "int8", marks=needs_levels),
    ],
)
def test_threads_change_nothing(code: str, activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1)
    layer, x = random_layer(Trellis(code=code), 90, 100), inputs(100, 5)
    with threads(1):
        alone, W = product().multiply(layer, x, activations), product().unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product().multiply(layer, x, activations), alone)
        assert torch.equal(product().unpack(layer, torch.float32), W)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("behind", [True, False])
def test_nothing_outside_the_codes_is_read(bits: int, behind: bool) -> None:
    """A page that may not be read lies behind the codes, or before them."""
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 3 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area)) + (2 * page if behind else 0)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), page, 0) == 0
    for code in ("mul1", "quantile", "levels", "hyb"):
        layer = random_layer(Trellis(bits=bits, code=code, L=12), 20, 70)
        codes = layer.tensors["codes"]
        at = 2 * page - codes.numel() if behind else page
        kept = torch.frombuffer(area, dtype=torch.uint8, count=3 * page)[at : at + codes.numel()].view_as(codes)
        layer = Packed(layer.codebook, {**layer.tensors, "codes": kept.copy_(codes)}, 20, 70)
        check_product(layer, 2)
        if product_of(layer.codebook, CPU, "int8"):
            check_product(layer, 1, "int8", 0.01)


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(Trellis(), CPU) is None


def test_what_it_runs_on_is_named() -> None:
    assert product().kernel(Trellis(code="mul1"), CPU) in {"AVX-512 VNNI", "C"}
    assert product().kernel(Trellis(code="levels"), CPU) in {"AVX-512 VBMI", "C"}
    assert product().kernel(Trellis(), CPU) == "C"


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(variants: dict[str, ctypes.CDLL], target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    for bits in (1, 2, 3, 4):
        for form in forms(bits):
            layer = random_layer(form, 33, 70)
            check_product(layer, 5)
            assert product_of(form, CPU, "int8") is None
