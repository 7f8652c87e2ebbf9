"""Incoherence processing: same loss in both bases, exact inverse, and activations that follow."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.linalg.proxy import eigenvectors, hessian_incoherence, proxy_loss, weight_incoherence
from quip_engine.transforms import Maps, Transform, transforms
from quip_engine.transforms.base import Keep
from quip_engine.transforms.block_hadamard import ScaledBlockHadamard
from quip_engine.transforms.fourier import RandomFourier
from quip_engine.transforms.hadamard import RandomizedHadamard, SignedHadamard, draw_signs, unpack_signs
from quip_engine.transforms.kronecker import RandomOrthogonal
from quip_engine.transforms.none import Identity
from quip_engine.transforms.rescale import fourth_root_rescale

SHAPES = [(48, 96), (96, 64), (105, 172), (7, 22), (1, 13)]
EVERY_TRANSFORM = [
    Identity(),
    *(part(rescale=on) for part in (RandomizedHadamard, RandomOrthogonal) for on in (False, True)),
    *(ScaledBlockHadamard(width=32, scales=on) for on in (False, True)),
    RandomFourier(),
    RandomFourier(sides="input"),
    *(RandomizedHadamard(sides=sides, output_scales=True) for sides in ("both", "output")),
]


def problem(m: int, n: int) -> tuple[Tensor, Tensor]:
    """W: (m, n) and H: (n, n) with columns of very different size, correlated, and one outlier each."""
    generator = torch.Generator().manual_seed(m * n)
    W = torch.randn(m, n, generator=generator) * torch.logspace(-1, 1, n)
    X = torch.randn(3 * n, n, generator=generator) @ torch.randn(n, n, generator=generator)
    X[:, n // 2] *= 30
    W[m // 2, n // 3] = 50
    return W, X.T @ X / len(X)


def fitted(transform: Transform, m: int, n: int) -> tuple[Tensor, Tensor, dict[str, Tensor], Maps]:
    W, H = problem(m, n)
    tensors = transform.fit(W, H, input_seed=3, output_seed=4)
    return W, H, tensors, transform.maps(tensors, m, n)


@pytest.fixture(params=EVERY_TRANSFORM, ids=str)
def transform(request: pytest.FixtureRequest) -> Transform:
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_proxy_loss_is_the_same_in_both_bases(transform: Transform, shape: tuple[int, int]) -> None:
    W, H, _, maps = fitted(transform, *shape)
    W_hat = W + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) * W.std()
    here = proxy_loss(W, W_hat, H)
    rows = Maps(Keep(), maps.output_rotation, output_scale=maps.output_scale)  # rows count equally in their own basis
    there = proxy_loss(*(rows.inverse(maps.weight(w)) for w in (W, W_hat)), maps.hessian(H))
    assert there == pytest.approx(here, rel=5e-5)  # 2e-6, and 2e-5 where the scales of one row differ most


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_agree_with_each_other(transform: Transform, shape: tuple[int, int]) -> None:
    W, _, _, maps = fitted(transform, *shape)
    W_t = maps.weight(W)
    assert (maps.inverse(W_t) - W).norm() < 1e-5 * W.norm()
    x = torch.randn(2, 5, shape[1], generator=torch.Generator().manual_seed(0))
    y = maps.on_output(maps.on_input(x) @ W_t.T)
    assert (y - x @ W.T).norm() < 1e-5 * y.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stored_tensors_are_those_of_the_layout(transform: Transform, shape: tuple[int, int]) -> None:
    _, _, tensors, _ = fitted(transform, *shape)
    layout = transform.layout(*shape)
    assert {k: (tuple(t.shape), t.dtype) for k, t in tensors.items()} == {
        k: (s.shape, s.dtype) for k, s in layout.items()
    }


def test_transform_is_deterministic_and_leaves_its_input_alone(transform: Transform) -> None:
    W, H = problem(48, 96)
    before = W.clone(), H.clone()
    first, second = (transform.fit(W, H, input_seed=3, output_seed=4) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    transform.maps(first, 48, 96).weight(W)
    transform.maps(first, 48, 96).hessian(H)
    assert torch.equal(W, before[0]) and torch.equal(H, before[1])


ROTATIONS = [
    RandomizedHadamard(),
    RandomOrthogonal(rescale=False),
    ScaledBlockHadamard(scales=False),
    RandomFourier(),
]


@pytest.mark.parametrize("transform", ROTATIONS, ids=str)
def test_layers_with_one_input_share_its_rotation(transform: Transform) -> None:
    W, H = problem(48, 96)
    x = torch.randn(4, 96)
    of = {seed: transform.fit(W, H, input_seed=7, output_seed=seed) for seed in (1, 2)}
    maps = {seed: transform.maps(tensors, 48, 96) for seed, tensors in of.items()}
    assert torch.equal(maps[1].on_input(x), maps[2].on_input(x))
    assert not torch.equal(maps[1].weight(W), maps[2].weight(W))


@pytest.mark.parametrize("transform", ROTATIONS, ids=str)
def test_outliers_are_spread(transform: Transform) -> None:
    W, H, _, maps = fitted(transform, 256, 384)
    assert weight_incoherence(W) > 15  # 15.2
    assert weight_incoherence(maps.weight(W)) < 7  # 4.2 Hadamard, 5.1 Kronecker, 6.8 blocks, 4.7 Fourier
    Q = eigenvectors(H)
    assert Q is not None and hessian_incoherence(Q) > 19  # 19.58 of sqrt(384) = 19.60
    assert hessian_incoherence(maps.on_input(Q.T).T) < 7  # 4.0 Hadamard, 5.9 Kronecker, 4.7 blocks, 4.6 Fourier


def test_rescale_minimizes_the_product_of_trace_and_norm() -> None:
    W, H = problem(48, 96)
    s = fourth_root_rescale(W, H).float()

    def objective(s: Tensor) -> float:
        return float((H.diagonal() / s.square()).sum() * (W * s).square().sum())

    best = objective(s)
    assert best < 0.9 * objective(torch.ones(96))
    for factor, column in itertools.product((0.9, 1.1), (0, 40, 95)):
        other = s.clone()
        other[column] *= factor
        assert objective(other) > best


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rescale_is_finite_for_dead_columns_at_any_scale(scale: float) -> None:
    W, H = problem(8, 12)
    W[:, 3] = 0
    H[5] = H[:, 5] = 0
    s = fourth_root_rescale(W * scale, H / scale)
    assert s.min() >= 0.009 and s.max() <= 101
    assert torch.equal(fourth_root_rescale(0 * W, 0 * H), torch.ones(12, dtype=torch.float16))


def test_signs_survive_packing() -> None:
    packed = draw_signs(21, seed=0)
    signs = unpack_signs(packed, 21)
    assert packed.shape == (3,) and packed.dtype == torch.uint8
    assert set(signs.tolist()) == {-1.0, 1.0} and signs.shape == (21,)
    bits = [(int(packed[i // 8]) >> i % 8) & 1 for i in range(21)]
    assert signs.tolist() == [2.0 * bit - 1 for bit in bits]
    assert abs(float(unpack_signs(draw_signs(10_000, seed=1), 10_000).mean())) < 0.04


def test_random_streams_have_not_changed() -> None:
    """Seeds are stored in models and in runs: another stream of torch's generator must not go unnoticed."""
    assert draw_signs(24, seed=0).tolist() == [246, 39, 104]
    W, H = problem(6, 10)
    transform = RandomOrthogonal(rescale=False)
    x = transform.maps(transform.fit(W, H, input_seed=0, output_seed=1), 6, 10).on_input(torch.arange(10.0))
    assert torch.allclose(x[:3], torch.tensor([-2.680535, -2.059221, -0.546861]), atol=1e-4)


def test_notes_name_fallbacks() -> None:
    assert RandomizedHadamard().notes(64, 172) == []
    assert RandomizedHadamard().notes(105, 46) == [
        "no Hadamard matrix of width 46: orthogonal(23) x hadamard(2) instead",
        "no Hadamard matrix of width 105: orthogonal(105) instead",
    ]
    assert RandomOrthogonal().notes(64, 64) == []
    assert len(RandomOrthogonal().notes(13, 64)) == 1


def test_every_transform_is_known_by_name_and_comes_back_from_json(transform: Transform) -> None:
    assert set(transforms.names()) >= {"none", "hadamard", "kronecker", "block-hadamard", "fourier"}
    assert transforms.from_json(transform.to_json()) == transform


def test_published_transform_of_a_layer(reference: Path) -> None:
    """W~ and H~ of QuIP# from its sign vectors: 256 x 384, so H_12 (x) Sylvester on the input side."""
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    maps = Maps(SignedHadamard(golden["rht_SU"]), SignedHadamard(golden["rht_SV"]))
    assert (maps.weight(golden["rht_W"]) - golden["rht_Wr"]).abs().max() < 1e-5
    H_t = maps.hessian(golden["rht_H"])
    assert (H_t - golden["rht_Hr"]).abs().max() < 1e-5


@pytest.mark.parametrize("known", [False, True])
def test_output_scales_leave_the_least_error_where_it_counts(known: bool) -> None:
    """Noise alike on all rows of W~ costs (sum sqrt(h) w)^2, the least there is, whatever rows and importance are."""
    generator = torch.Generator().manual_seed(0)
    w, h = (torch.rand(64, generator=generator).mul(4).exp2() for _ in range(2))
    h = h if known else torch.ones(64)
    W = torch.nn.functional.normalize(torch.randn(64, 96, generator=generator)) * w[:, None]
    transform = RandomizedHadamard(output_scales=True)
    tensors = transform.fit(W, torch.eye(96), input_seed=0, output_seed=1, importance=h if known else None)
    r = transform.maps(tensors, 64, 96).output_scale
    assert r is not None and r.max() == 1
    cost = float((h * r.square()).mean() * (w / r).square().mean())
    best = float((h.sqrt() * w).mean().square())
    assert cost < 1.02 * best  # 1.004: steps of a quarter octave
    assert cost < 0.8 * float(h.mean() * w.square().mean())


@pytest.mark.parametrize("m", [1, 5, 8])
def test_output_scales_of_dead_and_lonely_rows(m: int) -> None:
    W = torch.zeros(m, 8)
    W[0] = 1e-20
    transform = RandomizedHadamard(output_scales=True)
    tensors = transform.fit(W, torch.eye(8), input_seed=0, output_seed=1, importance=W[:, 0] * 0)
    assert {name: t.shape for name, t in tensors.items()} == {
        name: torch.Size(spec.shape) for name, spec in transform.layout(m, 8).items()
    }
    r = transform.maps(tensors, m, 8).output_scale
    assert r is not None and torch.isfinite(r).all() and (r > 0).all()
