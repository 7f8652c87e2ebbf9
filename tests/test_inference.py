"""What packed layers run on, and what is done and said where there is no kernel."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quip_engine import inference
from quip_engine.codebooks.d4 import D4
from quip_engine.codebooks.e8p import E8P
from quip_engine.errors import QuipError
from quip_engine.inference import prepare, running
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.native import library
from quip_engine.products import Packed, Product, base
from quip_engine.transforms.none import Identity

N = 64


class Counted(Product):
    """A product for float activations on CPUs."""

    few = 2

    def __init__(self) -> None:
        self.multiplied = self.unpacked = 0

    def kernel(self, codebook, device, activations="float"):
        return "test kernel" if device.type == "cpu" and activations == "float" else ""

    def multiply(self, layer, x, activations="float"):
        self.multiplied += 1
        return base.reference(layer, x)

    def unpack(self, layer, dtype):
        self.unpacked += 1
        return layer.codebook.decode(layer.tensors, layer.m, layer.n).to(dtype)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A world in which E8P alone has a kernel."""
    product = Counted()

    def product_of(codebook, device, activations="float"):
        return product if isinstance(codebook, E8P) and product.kernel(codebook, device, activations) else None

    monkeypatch.setattr(base, "product_of", product_of)
    monkeypatch.setattr("quip_engine.linear.product_of", base.product_of)
    return product


def layer(codebook=None) -> QuantizedLinear:
    made = QuantizedLinear(N, N, False, LayerFormat(Identity(), codebook or E8P()))
    for name, tensor in made.tensors().items():
        tensor.data.fill_(0.01) if tensor.is_floating_point() else tensor.data.random_(generator=_seeded(name))
    return made


def _seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_few_rows_are_multiplied_on_the_fly_and_many_after_unpacking(kernels: Counted) -> None:
    packed, x = layer(), torch.randn(3, N)
    y = packed(x[:2])
    assert (kernels.multiplied, kernels.unpacked) == (1, 0)
    torch.testing.assert_close(packed(x)[:2], y)
    assert (kernels.multiplied, kernels.unpacked) == (1, 1)


def test_the_operator_has_a_gradient_for_its_input(kernels: Counted) -> None:
    packed = layer()
    x = torch.randn(2, N, requires_grad=True)
    packed(x)[:, 0].sum().backward()
    torch.testing.assert_close(x.grad, packed.dequantize()[0].expand(2, N))


def test_float_parts_can_be_trained(kernels: Counted) -> None:
    packed = layer()
    packed.scale.requires_grad_()
    packed(torch.randn(1, N)).sum().backward()
    assert packed.scale.grad is not None and kernels.multiplied == 0


def test_the_operator_can_be_traced(kernels: Counted) -> None:
    packed, x = layer(), torch.randn(1, N)
    compiled = torch.compile(packed, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), packed(x))


def test_a_model_says_what_it_runs_on(kernels: Counted) -> None:
    assert str(prepare(nn.Sequential(layer(), layer()))) == "e8p: test kernel"
    assert str(running(nn.Linear(2, 2))) == "torch, dense weights"


def test_activations_that_a_kernel_cannot_take_stay_floats(kernels: Counted) -> None:
    model = nn.Sequential(layer())
    assert str(prepare(model, "int8")) == "e8p: test kernel"
    assert model[0].activations == "float"
    with pytest.raises(QuipError, match="activations"):
        prepare(model, "int4")


def test_layers_without_a_kernel_are_unpacked_once_and_that_is_said(kernels: Counted) -> None:
    model = nn.Sequential(layer(), layer(D4()))
    x = torch.randn(1, N)
    before = model(x)
    said = prepare(model)
    assert said.kernels == ("e8p: test kernel",)
    assert "1 layers were unpacked once" in said.fallback and model[1].unpacked_bytes == 4 * N * N
    torch.testing.assert_close(model(x), before)


def test_too_little_memory_to_unpack_is_said(kernels: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=4 * N * N))
    monkeypatch.setattr(inference, "psutil", memory)
    model = nn.Sequential(layer(D4()))
    assert "decoded at each token" in prepare(model).fallback
    assert model[0].unpacked_bytes == 0


def test_without_a_compiler_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIP_KERNELS", "off")
    assert library() is None
    assert "QUIP_KERNELS=off" in prepare(nn.Sequential(layer())).fallback


def test_unpacked_weights_follow_new_codes(kernels: Counted) -> None:
    packed, x = layer(D4()), torch.randn(1, N)
    packed.unpack_(torch.float32)
    packed.codes.data = packed.codes.data.flip(0).clone()
    torch.testing.assert_close(packed(x), x @ packed.dequantize().T)
    assert packed.unpacked_bytes == 0


def test_reference_is_decode_and_multiply() -> None:
    packed: Packed = layer().packed()
    x = torch.randn(2, N)
    W = packed.codebook.decode(packed.tensors, N, N)
    assert torch.equal(base.reference(packed, x), x @ W.T)


def test_preparing_again_unpacks_nothing_anew(kernels: Counted) -> None:
    model = nn.Sequential(layer(D4()))
    said, unpacked = prepare(model), model[0]._dense
    assert prepare(model) == said and model[0]._dense is unpacked
