"""QuantizedLinear: equal to its dense weight, and unharmed by casts, copies, moves and loading."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from quip_engine.codebooks import Codebook, codebooks
from quip_engine.codebooks.base import Quantizer
from quip_engine.layer import LayerFormat, LayerReport, QuantizedWeight
from quip_engine.linear import QuantizedLinear, share_inputs
from quip_engine.products import packed_product
from quip_engine.transforms import Maps, TensorSpec, Transform, transforms
from quip_engine.transforms.hadamard import RandomizedHadamard
from quip_engine.transforms.kronecker import RandomOrthogonal

M, N = 64, 96


@dataclass(frozen=True)
class Exact(Codebook):
    """Stores the weights themselves: what is left is the error of the maps."""

    code_bits = 32.0

    def fit(self, W: Tensor, H: Tensor) -> Quantizer:
        raise NotImplementedError

    def unit_quantizer(self, samples: int) -> Quantizer:
        raise NotImplementedError

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        return {"values": TensorSpec((m, n), torch.float32)}

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        return tensors["values"]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(transform: Transform, codebook: Codebook, m: int = M, n: int = N) -> QuantizedWeight:
    """A seeded m x n weight with every column block rounded to its nearest codewords."""
    W, H = gaussian(m, n), torch.eye(n)
    tensors = transform.fit(W, H, input_seed=1, output_seed=2)
    W_t = transform.maps(tensors, m, n).weight(W)
    if isinstance(codebook, Exact):
        tensors["values"] = W_t.contiguous()
    else:
        quantizer = codebook.fit(W_t, H)
        starts = range(0, n, quantizer.block)
        tensors |= quantizer.pack([quantizer.round(W_t[:, s : s + quantizer.block], s)[1] for s in starts])
    report = LayerReport(0, 0, 0, 0, 0, None, None, 0)
    return QuantizedWeight((m, n), LayerFormat(transform, codebook), tensors, report)


@pytest.fixture
def layer() -> QuantizedLinear:
    return QuantizedLinear.from_quantized(quantized(RandomizedHadamard(rescale=True), Exact()), gaussian(M, seed=3))


@pytest.mark.parametrize("codebook", [Exact, *codebooks], ids=lambda kind: kind.name or "exact")
@pytest.mark.parametrize("transform", list(transforms), ids=lambda kind: kind.name)
def test_forward_equals_the_dense_weight(transform: type[Transform], codebook: type[Codebook]) -> None:
    q = quantized(transform(), codebook())
    bias = gaussian(M, seed=3)
    layer = QuantizedLinear.from_quantized(q, bias)
    x = gaussian(2, 5, N, seed=4)
    dense = nn.functional.linear(x, q.dequantize(), bias)
    assert (layer(x) - dense).norm() < 1e-5 * dense.norm()  # 5e-7
    assert torch.equal(layer.dequantize(), q.dequantize())
    assert {k: (v.shape, v.dtype) for k, v in layer.tensors().items()} == {
        k: (v.shape, v.dtype) for k, v in q.tensors.items()
    }


def test_the_weight_it_was_made_from_comes_back() -> None:
    for transform in (RandomizedHadamard(), RandomOrthogonal()):
        layer = QuantizedLinear.from_quantized(quantized(transform, Exact(), 35, 46))
        assert (layer.dequantize() - gaussian(35, 46)).norm() < 1e-6 * gaussian(35, 46).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_output_has_the_dtype_of_the_input(layer: QuantizedLinear, dtype: torch.dtype) -> None:
    x = gaussian(3, N).to(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), layer(x.float()).to(dtype))


@pytest.mark.parametrize("rows", [1, 2, 70])
def test_types_that_change_on_the_way_change_nothing(rows: int) -> None:
    q = quantized(RandomizedHadamard(), codebooks.get("e8p")())
    shared = nn.Sequential(*(QuantizedLinear.from_quantized(q, gaussian(M, seed=3)) for _ in range(2)))
    layer, x = shared[0], gaussian(rows, N).bfloat16()
    maps = layer.maps()
    y = packed_product(layer.packed(), maps.on_input(x.float()), dtype=torch.bfloat16)
    expected = (maps.on_output(y) + layer.bias).bfloat16()
    assert torch.equal(layer(x), expected)
    share_inputs(shared)
    assert torch.equal(shared[0](x), expected) and torch.equal(shared[1](x), expected)
    assert layer(x.float()).dtype == torch.float32


@pytest.mark.parametrize(
    "cast", [nn.Module.half, nn.Module.double, lambda m: m.to(torch.bfloat16)], ids=["half", "double", "to"]
)
def test_a_cast_reaches_the_bias_only(layer: QuantizedLinear, cast: object) -> None:
    before = {name: tensor.clone() for name, tensor in layer.tensors().items()}
    model = cast(nn.Sequential(layer))  # type: ignore[operator]
    after = model[0].tensors()
    assert all(after[name].dtype == t.dtype and torch.equal(after[name], t) for name, t in before.items())
    assert model[0].bias.dtype in {torch.float16, torch.float64, torch.bfloat16}


def test_a_layer_made_on_meta_is_filled_by_a_state_dict(layer: QuantizedLinear) -> None:
    empty = QuantizedLinear(N, M, True, layer.format, device="meta", dtype=torch.float32)
    assert all(p.is_meta and not p.requires_grad for p in empty.parameters())
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = gaussian(3, N)
    assert torch.equal(empty(x), layer(x))
    room = QuantizedLinear(N, M, True, layer.format, device="meta").to_empty(device="cpu")
    room.load_state_dict(layer.state_dict())
    assert torch.equal(room(x), layer(x))


def test_tensors_that_change_after_use_are_seen(layer: QuantizedLinear) -> None:
    other = QuantizedLinear.from_quantized(quantized(RandomOrthogonal(), Exact()))
    changed = QuantizedLinear(N, M, False, other.format)
    changed.load_state_dict(QuantizedLinear.from_quantized(quantized(RandomOrthogonal(), Exact())).state_dict())
    x = gaussian(3, N)
    before = changed(x)
    with torch.no_grad():
        changed.input_seed += 1
    assert not torch.allclose(changed(x), before)
    changed.load_state_dict(other.state_dict())
    assert torch.equal(changed(x), before)


def test_maps_are_built_once(layer: QuantizedLinear) -> None:
    assert layer.maps() is layer.maps()


@pytest.mark.parametrize("transform", [RandomizedHadamard, RandomOrthogonal], ids=lambda kind: kind.name)
def test_a_layer_that_was_used_is_traced_whole(transform: type[Transform]) -> None:
    made = QuantizedLinear.from_quantized(quantized(transform(), codebooks.get("e8p")()))
    x = gaussian(2, N, seed=3)
    with torch.no_grad():
        y = made(x)
        torch.testing.assert_close(torch.compile(made, backend="eager", fullgraph=True)(x), y)


def test_copies_and_pickles_work_alone(layer: QuantizedLinear) -> None:
    x = gaussian(3, N)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        with torch.no_grad():
            other.values.zero_()
        assert torch.equal(layer(x), y)


def test_gradients_reach_the_input(layer: QuantizedLinear) -> None:
    with torch.inference_mode():
        layer(gaussian(1, N))  # what this caches must still serve training
    x = gaussian(3, N).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, layer.dequantize().sum(0).expand(3, N), atol=1e-4)


def test_it_shows_what_it_is(layer: QuantizedLinear) -> None:
    assert "in_features=96, out_features=64, bias=True, transform=hadamard" in repr(layer)
    assert "bias" not in QuantizedLinear(N, M, False, layer.format).state_dict()


class Attention(nn.Module):
    """Two layers that read one input, and one with an input of its own map."""

    def __init__(self) -> None:
        super().__init__()
        layers = [QuantizedLinear.from_quantized(quantized(RandomizedHadamard(), Exact())) for _ in range(3)]
        self.q, self.k, self.o = layers
        self.o.input_signs.data = ~self.o.input_signs.data

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.q(x), self.k(x), self.o(x)])


def test_layers_with_the_same_input_map_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Attention(), gaussian(2, N, seed=3)
    before = model(x)
    share_inputs(model)
    assert model.q._shared is model.k._shared is not None and model.o._shared is None
    calls = []
    original = Maps.on_input
    monkeypatch.setattr(Maps, "on_input", lambda maps, *given: (calls.append(1), original(maps, *given))[1])
    assert torch.equal(model(x), before) and len(calls) == 2
    assert torch.equal(model(x), before)  # nothing is kept


def test_a_shared_input_is_mapped_anew_when_it_changes() -> None:
    model, x = Attention(), gaussian(2, N, seed=3)
    share_inputs(model)
    model.q(x)
    x += 1
    assert torch.equal(model.k(x), model.q(x))
    copied = copy.deepcopy(model)
    assert copied.q._shared is copied.k._shared is not model.q._shared
    x.requires_grad_()
    for _ in range(2):
        model(x).sum().backward()
