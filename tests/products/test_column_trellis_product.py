"""Products with the water-filled trellis: every rate, width and instruction set against plain torch."""

import pytest
import torch
from product_cases import EXACT, check_product, inputs, relative_error, rounded, threads
from torch import Tensor

from quip_engine.codebooks.column_trellis import ColumnTrellis, Sequences
from quip_engine.codebooks.packing import pack_bits
from quip_engine.native import library
from quip_engine.products import Packed, product_of
from quip_engine.products import column_trellis as module

CPU = torch.device("cpu")
SHAPES = [(96, 270), (300, 33), (17, 51), (383, 19), (1024, 48)]  # 300 rows in one string, 383 the longest

pytestmark = pytest.mark.skipif(library() is None, reason="there are no C kernels")


def random_layer(form: ColumnTrellis, rates: Tensor, m: int, n: int) -> Packed:
    """Random bits at these rates: (groups,), as numbers; every string of bits is a path."""
    generator = torch.Generator().manual_seed(m + n)
    side, trellis = form.side, Sequences.of(form.L, m)
    costs = trellis.costs(side)
    rates = torch.where((costs >= form.L * trellis.S)[rates], rates, 0)
    used = int(costs[rates.repeat_interleave(form.group)[:n]].sum())

    def codes(bits: int, count: int, most: int) -> Tensor:
        return pack_bits(torch.randint(0, most, (1, count), generator=generator, dtype=torch.uint8), bits)[0]

    tensors = {
        "codes": torch.randint(0, 256, (used // 8 + 1,), generator=generator, dtype=torch.uint8),
        "rates": pack_bits(rates[None].to(torch.uint8), side.rate_bits)[0],
        "scales": codes(side.scale_bits, len(rates), round(4 / side.scale_step)),
        "base": torch.tensor([0.7]),
    }
    if form.row_scales:
        tensors["row_scales"] = codes(6, m, 40)
    return Packed(form, tensors, m, n)


def every_rate(form: ColumnTrellis, n: int, first: int = 13) -> Tensor:
    """Numbers of rates, one group after the other, from ``first`` on."""
    return (first + 5 * torch.arange(-(-n // form.group))) % 2**form.side.rate_bits


@pytest.mark.parametrize("L", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("group", [1, 16, 32])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_random_bits_at_every_rate(L: int, group: int, m: int, n: int) -> None:
    form = ColumnTrellis(L=L, group=group, row_scales=m % 2 == 0)
    for first in (13, 36):
        layer = random_layer(form, every_rate(form, n, first), m, n)
        check_product(layer)
        check_product(layer, b=3)
        check_product(layer, activations="int8", limit=2e-4)


@pytest.mark.parametrize(("bits", "group", "row_scales"), [(1.0, 16, True), (2.0, 1, True), (3.35, 5, False)])
def test_rounded_layers(bits: float, group: int, row_scales: bool) -> None:
    form = ColumnTrellis(bits=bits, L=8, group=group, row_scales=row_scales)
    layer = rounded(form, 64, 45)
    check_product(layer, b=2)
    check_product(layer, activations="int8", limit=2e-4)


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_threads_change_nothing(activations: str) -> None:
    form = ColumnTrellis(L=12)
    layer, x = random_layer(form, every_rate(form, 64), 1300, 64), inputs(64, 2)
    product = module.ColumnTrellisProduct()
    with threads(1):
        alone, W = product.multiply(layer, x, activations), product.unpack(layer, torch.float32)
    with threads(3):
        assert torch.equal(product.multiply(layer, x, activations), alone)
        assert torch.equal(product.unpack(layer, torch.float32), W)


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_x_is_read_digit_by_digit(activations: str) -> None:
    """Measured: 1.2e-6 with three digits, 2.2e-5 with two, of x whose sizes differ 1000 times."""
    form = ColumnTrellis(L=12)
    layer, x = random_layer(form, torch.full((64,), 16), 1024, 1024), inputs(1024)
    x *= torch.logspace(0, 3, 1024)
    product = module.ColumnTrellisProduct()
    error = relative_error(product.multiply(layer, x, activations), x @ product.unpack(layer, torch.float32).T)
    assert error < (2e-6 if activations == "float" else 5e-5)


def test_what_is_not_finite_stays_so() -> None:
    form = ColumnTrellis(L=12)
    layer, product = random_layer(form, torch.full((4,), 16), 64, 64), module.ColumnTrellisProduct()
    for bad in (float("nan"), float("inf")):
        x = inputs(64)
        x[0, 40] = bad
        assert not product.multiply(layer, x).isfinite().any()


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_many_rows(activations: str) -> None:
    form = ColumnTrellis(L=12)
    layer, x = random_layer(form, every_rate(form, 96), 520, 96), inputs(96, 7)
    product = module.ColumnTrellisProduct()
    one_by_one = torch.cat([product.multiply(layer, row[None], activations) for row in x])
    assert torch.equal(product.multiply(layer, x, activations), one_by_one)


def test_bfloat16_is_the_nearest() -> None:
    form = ColumnTrellis(L=10, row_scales=True)
    layer, product = random_layer(form, every_rate(form, 40), 100, 40), module.ColumnTrellisProduct()
    assert torch.equal(product.unpack(layer, torch.bfloat16), product.unpack(layer, torch.float32).bfloat16())


def test_a_layer_without_bits_is_zero() -> None:
    form = ColumnTrellis()
    layer, product = random_layer(form, torch.zeros(2, dtype=torch.int64), 40, 20), module.ColumnTrellisProduct()
    assert not product.multiply(layer, inputs(20)).any() and not product.unpack(layer, torch.float32).any()


def test_codes_that_end_too_early_read_nothing_beyond() -> None:
    form = ColumnTrellis()
    layer = random_layer(form, torch.full((2,), 63), 256, 32)
    layer.tensors["codes"] = layer.tensors["codes"][:100].clone()
    assert product_of(form, CPU).multiply(layer, inputs(32)).isfinite().all()


def test_without_kernels_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert product_of(ColumnTrellis(), CPU) is None


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(variants, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if target not in variants:
        pytest.skip(f"the compiler has no {target}")
    monkeypatch.setattr(module, "library", lambda: variants[target])
    for L in (10, 12, 16):
        form = ColumnTrellis(L=L)
        for activations in ("float", "int8"):
            layer = random_layer(form, every_rate(form, 130), 300, 130)
            check_product(layer, b=2, activations=activations, limit=EXACT)  # nothing is computed there
