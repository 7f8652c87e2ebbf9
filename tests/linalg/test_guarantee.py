import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from quip_engine.codebooks.grid import Grid
from quip_engine.distortion import gaussian_distortion
from quip_engine.layer import quantize_weight
from quip_engine.linalg.bound import rate_distortion_bound, relative_proxy_bound
from quip_engine.linalg.guarantee import Bounds, Traces, bounds, eigenvalues_of, feedback_ratio, rate_of
from quip_engine.methods.registry import Recipe
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.transforms import Transform
from quip_engine.transforms.hadamard import RandomizedHadamard
from quip_engine.transforms.kronecker import RandomOrthogonal

M, N = 96, 64


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(4 * N, N, generator=generator) @ torch.randn(N, N, generator=generator)
    return torch.randn(M, N, generator=generator), X.T @ X / len(X)


def test_feedback_takes_nothing_from_a_diagonal_hessian() -> None:
    assert feedback_ratio(torch.diag(torch.arange(1.0, 9))) == pytest.approx(1, abs=1e-6)


def test_feedback_of_what_has_no_factor_is_unknown() -> None:
    assert feedback_ratio(torch.diag(torch.tensor([1.0, -1.0]))) is None


@pytest.mark.parametrize("block", [1, 8, 24])
def test_feedback_ratio_is_that_of_the_factors(block: int) -> None:
    H = problem()[1].double()
    H += 0.01 * H.diagonal().mean() * torch.eye(N)
    total = 0.0
    for k in range(0, N, block):
        own, before = slice(k, min(k + block, N)), slice(0, k)
        schur = H[own, own]
        if k:
            schur = schur - H[own, before] @ torch.linalg.solve(H[before, before], H[before, own])
        total += float(schur.trace())
    assert feedback_ratio(problem()[1], block) == pytest.approx(total / float(H.trace()), rel=1e-3)


def test_rate_is_the_inverse_of_the_bound() -> None:
    values = torch.tensor([8.0, 3.0, 1.0, 0.1], dtype=torch.float64)
    for bits in (0.3, 1.0, 2.0, 4.5):
        assert rate_of(rate_distortion_bound(values, bits), values) == pytest.approx(bits, abs=1e-6)
    assert rate_of(1.0, values) == 0.0


def test_eigenvalues_belong_to_their_vectors() -> None:
    H = problem()[1]
    values, Q = torch.linalg.eigh(H.double())
    assert torch.allclose(eigenvalues_of(H.double(), Q), values)


@pytest.mark.parametrize("transform", [RandomizedHadamard(), RandomOrthogonal(rescale=True)])
def test_bounds_hold_for_the_method_they_are_about(transform: Transform) -> None:
    """LDLQ on a fine grid is near the average case, below the incoherence bound and above the limit."""
    W, H = problem(1)
    codebook = Grid(bits=4)
    report = quantize_weight(W, H, Recipe(transform, codebook, LDLQ())).report
    values = torch.linalg.eigvalsh(H.double())
    lines = bounds(report.theory, gaussian_distortion(codebook, 2**16, 0)[0], report.mu_h_after, N)
    assert lines.limit == pytest.approx(relative_proxy_bound(W, H, values, report.bits_per_weight), rel=1e-4)
    assert lines.limit < report.rel_proxy
    assert 0.7 < report.rel_proxy / lines.average < 1.4  # measured 0.9 to 1.1
    assert lines.average < lines.nearest
    assert lines.average < lines.incoherence < lines.a_priori
    needed = report.bits_per_weight - report.theory.distance
    assert relative_proxy_bound(W, H, values, needed) == pytest.approx(report.rel_proxy, rel=1e-3)


def test_a_layer_gives_the_same_theory_whether_its_hessian_may_be_overwritten() -> None:
    W, H = problem(2)
    recipe = Recipe(RandomizedHadamard(), Grid(bits=2), LDLQ())
    kept, taken = (quantize_weight(W, H.clone(), recipe, last=last).report.theory for last in (False, True))
    assert asdict(kept) == pytest.approx(asdict(taken), rel=1e-5)


def test_without_eigenvalues_the_rest_is_known() -> None:
    W, H = problem()
    recipe = Recipe(RandomizedHadamard(), Grid(bits=2), LDLQ())
    found = quantize_weight(W, H, recipe, eigenvectors=None).report.theory
    assert (found.flatness, found.limit, found.distance) == (None, None, None)
    lines = bounds(found, 0.1, None, N)
    assert (lines.nearest, lines.average) == (found.energy * 0.1, found.energy * 0.1 * found.feedback)
    assert (lines.incoherence, lines.a_priori, lines.limit) == (None, None, None)
    assert bounds(Traces(), 0.1, 3.0, N) == Bounds(None, None, None, None, None)


def test_bounds_of_larger_blocks_are_looser() -> None:
    found = Traces(0.5, 1.0, 0.25, 0.01, 0.2)
    assert bounds(replace(found, block=8), 0.1, 2.0, N).incoherence == pytest.approx(8 * 0.1 * 0.25 * 4)
    assert bounds(found, 0.1, 2.0, N).a_priori == pytest.approx(0.1 * 0.25 * 2 * math.log(2 * N * N / 0.01))
