import math

import pytest
import torch
from torch import Tensor

from quip_engine.codebooks.grid import Grid
from quip_engine.distortion import gaussian_distortion
from quip_engine.layer import quantize_weight
from quip_engine.linalg.bound import rate_distortion_bound, relative_proxy_bound
from quip_engine.linalg.guarantee import Bounds, Traces, bounds, feedback_ratio, rate_of, traces
from quip_engine.linalg.proxy import eigenvectors, hessian_incoherence
from quip_engine.methods.registry import Recipe
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.transforms.hadamard import RandomizedHadamard

M, N = 96, 64


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(4 * N, N, generator=generator) @ torch.randn(N, N, generator=generator)
    return torch.randn(M, N, generator=generator), X.T @ X / len(X)


def test_feedback_takes_nothing_from_a_diagonal_hessian() -> None:
    assert feedback_ratio(torch.diag(torch.arange(1.0, 9)), 0.0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("block", [1, 8, 24])
def test_feedback_ratio_is_that_of_the_factors(block: int) -> None:
    H = problem()[1].double()
    total = 0.0
    for k in range(0, N, block):
        own = slice(k, min(k + block, N))
        before = slice(0, k)
        schur = H[own, own]
        if k:
            schur = schur - H[own, before] @ torch.linalg.solve(H[before, before], H[before, own])
        total += float(schur.trace())
    assert feedback_ratio(H.float(), 0.0, block) == pytest.approx(total / float(H.trace()), rel=1e-3)


def test_rate_is_the_inverse_of_the_bound() -> None:
    values = torch.tensor([8.0, 3.0, 1.0, 0.1], dtype=torch.float64)
    for bits in (0.3, 1.0, 2.0, 4.5):
        assert rate_of(rate_distortion_bound(values, bits), values) == pytest.approx(bits, abs=1e-6)
    assert rate_of(1.0, values) == 0.0


def test_a_rotation_changes_no_limit() -> None:
    W, H = problem()
    Q, _ = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(3)))
    values = torch.linalg.eigvalsh(H.double())
    a = traces(W, H, values, feedback=0.5, bits=2.0, loss=0.1)
    b = traces(W @ Q, Q.T @ H @ Q, values, feedback=0.5, bits=2.0, loss=0.1)
    assert a.limit == pytest.approx(relative_proxy_bound(W, H, values, 2.0), rel=1e-6)
    assert (b.energy, b.limit, b.distance) == pytest.approx((a.energy, a.limit, a.distance), rel=1e-5)


def test_bounds_hold_for_the_method_they_are_about() -> None:
    """LDLQ on a fine grid is near the average case, below the incoherence bound and above the limit."""
    W, H = problem(1)
    codebook = Grid(bits=4)
    q = quantize_weight(W, H, Recipe(RandomizedHadamard(), codebook, LDLQ(damping=1e-4)))
    maps = q.format.maps(q.tensors, M, N)
    W_t, H_t = maps.weight(W), maps.hessian(H)
    bits, loss = q.report.bits_per_weight, q.report.rel_proxy
    values, mu = torch.linalg.eigvalsh(H_t.double()), hessian_incoherence(eigenvectors(H_t))
    found = traces(W_t, H_t, values, feedback=feedback_ratio(H_t, 1e-4), bits=bits, loss=loss)
    mse = gaussian_distortion(codebook, 2**16, 0)[0]
    lines = bounds(found, mse, mu, N)
    assert lines.limit < loss
    assert 0.7 < loss / lines.average < 1.4  # measured 0.9 to 1.1
    assert lines.average < lines.nearest
    assert lines.average < lines.incoherence < lines.a_priori
    assert found.distance == pytest.approx(bits - rate_of(loss / found.energy, values))


def test_without_eigenvalues_the_rest_is_known() -> None:
    W, H = problem()
    found = traces(W, H, None, feedback=0.5, bits=2.0, loss=0.1)
    assert (found.flatness, found.limit, found.distance) == (None, None, None)
    assert bounds(found, 0.1, 3.0, N) == Bounds(found.energy * 0.1, found.energy * 0.05, None, None, None)


def test_bounds_of_larger_blocks_are_looser() -> None:
    found = Traces(0.5, 1.0, 0.25, 0.01, 0.2)
    assert bounds(found, 0.1, 2.0, N, 8).incoherence == pytest.approx(8 * 0.1 * 0.25 * 4)
    assert bounds(found, 0.1, 2.0, N).a_priori == pytest.approx(0.1 * 0.25 * 2 * math.log(2 * N * N / 0.01))
