"""The Hadamard transform with real vectors: its formula, its signs, its gradients."""

from pathlib import Path

import pytest
import torch
from helpers import random_layer
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.config import RecipeConfig
from quip_engine.layer import quantize_weight
from quip_engine.linalg.hadamard import Hadamard
from quip_engine.linear import QuantizedLinear
from quip_engine.methods import resolve
from quip_engine.transforms.hadamard import RandomizedHadamard
from quip_engine.transforms.scaled_hadamard import ScaledHadamard

SHAPES = [(48, 96), (105, 172), (64, 80)]


def random_vectors(m: int, n: int, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(m + n)
    v, u = (torch.randn(width, generator=generator) + 0.1 for width in (n, m))
    return {"input_vector": v.to(dtype), "output_vector": u}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_are_the_formula(shape: tuple[int, int]) -> None:
    m, n = shape
    tensors = random_vectors(m, n)
    maps = ScaledHadamard().maps(tensors, m, n)
    W_t = torch.randn(m, n, generator=torch.Generator().manual_seed(0))
    V_m, V_n = (Hadamard(width).transpose(torch.eye(width)) for width in (m, n))  # rows V^T e_i: V itself
    v, u = tensors["input_vector"].float(), tensors["output_vector"]
    W = u[:, None] * (V_m @ W_t @ V_n.T) * v
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(1))
    assert (maps.inverse(W_t) - W).norm() < 1e-6 * W.norm()
    assert (maps.on_output(maps.on_input(x) @ W_t.T) - x @ W.T).norm() < 1e-6 * (x @ W.T).norm()
    assert (maps.weight(W) - W_t).norm() < 1e-4 * W_t.norm()  # 3e-6: the smallest entry of a vector is 0.004


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fit_draws_the_signs_of_the_randomized_transform(shape: tuple[int, int]) -> None:
    W, H = random_layer(*shape)
    ours, theirs = ScaledHadamard(), RandomizedHadamard()
    maps, same = (
        part.maps(part.fit(W, H, input_seed=3, output_seed=4), *shape)  # type: ignore[attr-defined]
        for part in (ours, theirs)
    )
    assert torch.equal(maps.weight(W), same.weight(W))
    assert torch.equal(maps.hessian(H), same.hessian(H))
    assert ours.notes(*shape) == theirs.notes(*shape)


def test_a_recipe_may_use_it_and_costs_its_vectors() -> None:
    W, H = random_layer()
    packed, real = (
        quantize_weight(W, H, resolve(RecipeConfig("quip#", 2, transform=name))) for name in (None, "scaled-hadamard")
    )
    assert torch.equal(packed.dequantize(), real.dequantize())
    assert packed.tensors.keys() - real.tensors.keys() == {"input_signs", "output_signs"}
    more = (real.report.bits_per_weight - packed.report.bits_per_weight) * W.numel()
    assert round(more) == 48 * (16 - 1) + 32 * (32 - 1)


@pytest.mark.parametrize("first", ["with", "without"])
def test_gradients_reach_float32_vectors(first: str) -> None:
    config = RecipeConfig("quip#", 2, transform="scaled-hadamard", options={"input_dtype": "float32"})
    layer = QuantizedLinear.from_quantized(quantize_weight(*random_layer(), resolve(config)))
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    if first == "without":
        with torch.no_grad():
            layer(x)
    for vector in (layer.input_vector, layer.output_vector):
        vector.requires_grad_(True)
    for _ in range(2):  # the maps are built once, the gradient is taken twice
        layer(x).square().sum().backward()
    assert layer.input_vector.grad is not None and layer.input_vector.grad.abs().min() > 0
    assert layer.output_vector.grad is not None and layer.output_vector.grad.abs().min() > 0


def test_published_transform_of_a_layer(reference: Path) -> None:
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    tensors = {"input_vector": golden["rht_SU"].half(), "output_vector": golden["rht_SV"]}
    maps = ScaledHadamard().maps(tensors, 256, 384)
    assert (maps.weight(golden["rht_W"]) - golden["rht_Wr"]).abs().max() < 1e-5
    assert (maps.hessian(golden["rht_H"]) - golden["rht_Hr"]).abs().max() < 1e-5
