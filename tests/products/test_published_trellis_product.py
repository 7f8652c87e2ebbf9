"""Products with the published trellis: every rate, ragged shapes and instruction sets against plain torch."""

import pytest
import torch
from product_cases import EXACT, check_product, inputs, relative_error, rounded, threads
from torch import Tensor

from quip_engine.codebooks.published_trellis import PublishedTrellis
from quip_engine.native import library
from quip_engine.products import Packed, packed_product, product_of, reference
from quip_engine.products import published_trellis as module

CPU = torch.device("cpu")
SHAPES = [(32, 48), (40, 70), (5, 7), (256, 16), (16, 320)]

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")


def random_layer(bits: int, m: int, n: int) -> Packed:
    """Random bytes and a random table: every string of bits is a path."""
    codebook = PublishedTrellis(bits=bits)
    generator = torch.Generator().manual_seed(bits + m)
    shape = codebook.layout(m, n)["codes"].shape
    tensors: dict[str, Tensor] = {
        "codes": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "table": torch.randn(512, 2, generator=generator).half(),
        "scale": torch.tensor([0.7]),
    }
    return Packed(codebook, tensors, m, n)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_random_layers(bits: int, m: int, n: int) -> None:
    layer = random_layer(bits, m, n)
    for b in (1, 3):
        check_product(layer, b)
    assert product_of(layer.codebook, CPU, "int8") is None  # it would gain nothing


def test_rounded_layers() -> None:
    check_product(rounded(PublishedTrellis(), 64, 48), b=2)


@pytest.mark.parametrize("rows", [1, 32, 40])
def test_every_number_of_rows(rows: int) -> None:
    layer, x = random_layer(2, 48, 64), inputs(64, rows)
    assert relative_error(packed_product(layer, x), reference(layer, x)) <= EXACT


def test_tables_of_any_finite_halves() -> None:
    """Subnormal, largest and negative zero."""
    layer = random_layer(2, 64, 64)
    layer.tensors["table"][:4] = torch.tensor([[6e-8, -6e-8], [65504, -65504], [0.0, -0.0], [1e-5, 3e-7]]).half()
    check_product(layer)


def test_threads_change_nothing() -> None:
    layer, x = random_layer(3, 1300, 256), inputs(256, 2)
    product = module.PublishedTrellisProduct()
    with threads(1):
        alone, W = product.multiply(layer, x), product.unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product.multiply(layer, x), alone)
        assert torch.equal(product.unpack(layer, torch.float32), W)


def test_unpacked_weights_are_the_decoded_ones() -> None:
    layer, product = random_layer(4, 40, 70), module.PublishedTrellisProduct()
    W = layer.codebook.decode(layer.tensors, 40, 70)
    assert torch.equal(product.unpack(layer, torch.float32), W)
    assert torch.equal(product.unpack(layer, torch.bfloat16), W.bfloat16())


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(PublishedTrellis(), CPU) is None


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(variants, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    assert product_of(PublishedTrellis(), CPU).kernel(PublishedTrellis(), CPU) == "C"
    for bits in (1, 2, 3, 4):
        check_product(random_layer(bits, 40, 70), b=2)
