"""Parts of one packed product: right in every order of calls, and computed once where that is possible."""

import copy
import itertools
import pickle

import pytest
import torch
from helpers import random_layer
from torch import Tensor, nn

from quip_engine.config import RecipeConfig
from quip_engine.fused import place_fused
from quip_engine.layer import quantize_weight
from quip_engine.linear import QuantizedLinear
from quip_engine.methods import resolve

ROWS = {"q": 16, "k": 8, "v": 8}


@pytest.fixture
def block() -> nn.Module:
    linear = QuantizedLinear.from_quantized(quantize_weight(*random_layer(), resolve(RecipeConfig("quip#", 2))))
    block = nn.Module()
    for name, rows in ROWS.items():
        block.add_module(name, nn.Linear(48, rows, bias=False))
    place_fused(block, "qkv", linear, ROWS)
    return block


def expected(block: nn.Module, name: str, x: Tensor) -> Tensor:
    return dict(zip(ROWS, block.qkv(x).split(list(ROWS.values()), -1), strict=True))[name]


def inputs(count: int = 2) -> list[Tensor]:
    return list(torch.randn(count, 3, 48, generator=torch.Generator().manual_seed(0)).unbind())


class Counter:
    """How often the whole product was computed."""

    def __init__(self, linear: nn.Module) -> None:
        self.calls = 0
        linear.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))


@pytest.mark.parametrize("order", list(itertools.permutations(ROWS)), ids="".join)
def test_one_product_for_all_parts(block: nn.Module, order: tuple[str, ...]) -> None:
    for x in inputs():
        wanted = {name: expected(block, name, x) for name in order}
        counter = Counter(block.qkv)
        for name in order:
            assert torch.equal(getattr(block, name)(x), wanted[name])
        assert counter.calls == 1
        assert block.q.product._result is None


@pytest.mark.parametrize("inference", [False, True])
def test_every_order_of_parts_and_inputs(block: nn.Module, inference: bool) -> None:
    """Two inputs, three parts, all sequences of four calls: some forget parts, some ask twice."""
    with torch.inference_mode(inference):
        xs = [x.clone() for x in inputs()]
        wanted = {(i, name): expected(block, name, x) for i, x in enumerate(xs) for name in ROWS}
        for sequence in itertools.product(wanted, repeat=4):
            for i, name in sequence:
                assert torch.equal(getattr(block, name)(xs[i]), wanted[i, name])


def test_an_input_that_was_written_to_is_another(block: nn.Module) -> None:
    x, other = inputs()
    block.q(x)
    x.copy_(other)
    assert torch.equal(block.k(x), expected(block, "k", other))


def test_weights_that_changed_are_seen(block: nn.Module) -> None:
    (x,) = inputs(1)
    before = block.q(x)
    with torch.no_grad():
        block.qkv.scale.mul_(2)
    assert torch.allclose(block.k(x), expected(block, "k", x))
    assert torch.allclose(block.q(x), 2 * before)


def test_gradients_do_not_meet(block: nn.Module) -> None:
    x = inputs(1)[0].requires_grad_(True)
    for name in ROWS:  # each with a backward pass of its own
        (gradient,) = torch.autograd.grad(getattr(block, name)(x).square().sum(), x)
        (wanted,) = torch.autograd.grad(expected(block, name, x).square().sum(), x)
        assert torch.allclose(gradient, wanted)
    with torch.no_grad():
        block.q(x)
    assert block.k(x).requires_grad


def test_compiled_parts(block: nn.Module) -> None:
    (x,) = inputs(1)
    wanted = [expected(block, name, x) for name in ROWS]
    compiled = torch.compile(lambda x: [getattr(block, name)(x) for name in ROWS], backend="eager")
    with torch.no_grad():
        for y, part in zip(compiled(x), wanted, strict=True):
            assert (y - part).norm() < 1e-6 * part.norm()
    assert block.q.product._result is None


def test_copies_share_among_themselves(block: nn.Module) -> None:
    (x,) = inputs(1)
    block.q(x)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert twin.q.product is twin.v.product is not block.q.product
        assert twin.q.product.linear is twin.qkv
        assert torch.equal(twin.k(x), expected(block, "k", x))
    assert [name for name, _ in block.named_parameters()] == [f"qkv.{key}" for key in block.qkv.tensors()]


def test_parts_of_the_weight(block: nn.Module) -> None:
    W = torch.cat([getattr(block, name).dequantize() for name in ROWS])
    assert torch.equal(W, block.qkv.dequantize())
    assert [(getattr(block, n).in_features, getattr(block, n).out_features) for n in ROWS] == [
        (48, 16),
        (48, 8),
        (48, 8),
    ]
