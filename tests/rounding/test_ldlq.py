from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.codebooks import Quantizer
from quip_engine.codebooks.e8p import E8P, E8PQuantizer
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.codebooks.grid import Grid, RowGrid
from quip_engine.errors import QuipError
from quip_engine.linalg.hessian import damped
from quip_engine.linalg.proxy import proxy_loss, quadratic_trace
from quip_engine.rounding.base import Rounded
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.rounding.nearest import Nearest

CODEBOOKS = [Grid(bits=2), Grid(bits=4), RowGrid(bits=3), E8P(), ResidualE8P(bits=3), ResidualE8P(bits=4)]


def problem(m: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian weights and strongly correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, generator=generator) * 0.02
    X = torch.randn(4 * n, n, generator=generator) @ torch.randn(n, n, generator=generator)
    return W, X.T @ X / len(X)


def run(rounder: LDLQ, W: Tensor, H: Tensor, quantizer: Quantizer) -> Rounded:
    return rounder.round(W, H, quantizer, torch.Generator().manual_seed(0))


def textbook_ldlq(W: Tensor, H: Tensor, quantizer: Quantizer, metric: bool) -> Tensor:
    """Block by block over the whole width, straight from the equations."""
    n, g = len(H), quantizer.block
    C = torch.linalg.cholesky(H)
    W_hat = torch.zeros_like(W)
    for start in reversed(range(0, n, g)):
        stop = min(start + g, n)
        B = C[start:stop, start:stop]
        L = C[stop:, start:stop] @ torch.linalg.inv(B)
        target = W[:, start:stop] + (W[:, stop:] - W_hat[:, stop:]) @ L
        W_hat[:, start:stop] = quantizer.round(target, start, B @ B.T if metric else None)[0]
    return W_hat


def textbook_optq(W: Tensor, H: Tensor, quantizer: Quantizer) -> Tensor:
    """First column to last, from the upper Cholesky factor of the inverse of H."""
    W, W_hat = W.clone(), torch.zeros_like(W)
    T = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    for i in range(len(H)):
        W_hat[:, [i]] = quantizer.round(W[:, [i]].float(), i)[0].to(W)
        W[:, i:] -= (W[:, [i]] - W_hat[:, [i]]) / T[i, i] * T[i, i:]
    return W_hat


def equal_rows(A: Tensor, B: Tensor) -> int:
    """Rows that are equal. A target at the border of two codewords may fall to either side on another machine, and its
    row then goes its own way; here all are equal."""
    return int(torch.isclose(A, B, atol=1e-6).all(1).sum())


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("codebook", CODEBOOKS, ids=str)
@pytest.mark.parametrize("n", [40, 300])  # within one lazy buffer, and over three with a short last block
def test_equals_the_textbook(codebook: E8P, n: int, metric: bool) -> None:
    W, H = problem(12, n)
    quantizer = codebook.fit(W, H)
    rounded = run(LDLQ(metric=metric), W, H, quantizer).weight
    expected = textbook_ldlq(W, damped(H, 0.01), quantizer, metric)
    assert equal_rows(rounded, expected) >= 11


@pytest.mark.parametrize("bits", [2, 4])
def test_equals_optq_in_the_opposite_order(bits: int) -> None:
    W, H = (t.double() for t in problem(16, 60))
    quantizer = Grid(bits=bits).fit(W, H)
    expected = textbook_optq(W.flip(1), damped(H, 0.01).flip(0, 1), quantizer).flip(1)
    rounded = run(LDLQ(), W.float(), H.float(), quantizer).weight
    assert equal_rows(rounded, expected.float()) >= 15


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("codebook", CODEBOOKS, ids=str)
def test_sweeps_never_raise_the_loss_they_lower(codebook: E8P, metric: bool) -> None:
    W, H = problem(16, 150, seed=1)
    quantizer = codebook.fit(W, H)
    losses = []
    for sweeps in range(4):
        error = run(LDLQ(sweeps=sweeps, metric=metric), W, H, quantizer).weight.double() - W
        losses.append([quadratic_trace(row[None], damped(H, 0.01)) for row in error])
    for before, after in pairwise(losses):
        assert all(b <= a * (1 + 1e-5) for a, b in zip(before, after, strict=True))  # of every row
    assert sum(losses[-1]) < 0.97 * sum(losses[0])


@pytest.mark.parametrize("sweeps", [0, 3])
@pytest.mark.parametrize("codebook", CODEBOOKS, ids=str)
@pytest.mark.parametrize(("m", "n"), [(5, 27), (1, 1), (3, 8)])
def test_codes_are_those_of_the_rounded_weights(codebook: E8P, m: int, n: int, sweeps: int) -> None:
    W, H = problem(m, n)
    quantizer = codebook.fit(W, H)
    rounded = run(LDLQ(sweeps=sweeps), W, H, quantizer)
    assert rounded.weight.shape == (m, n)
    assert torch.equal(codebook.decode(quantizer.pack(rounded.codes), m, n), rounded.weight)


def test_feedback_and_metric_and_sweeps_each_lower_the_loss() -> None:
    W, H = problem(64, 128)
    quantizer = E8P().fit(W, H)
    nearest = Nearest().round(W, H, quantizer, torch.Generator())
    rounders = (LDLQ(metric=False), LDLQ(), LDLQ(sweeps=4))
    losses = [proxy_loss(W, r.weight, H) for r in (nearest, *(run(rounder, W, H, quantizer) for rounder in rounders))]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.6 * losses[0]  # measured: 0.090, 0.053, 0.050, 0.044


def test_clipping_is_fed_back() -> None:
    W, H = problem(8, 64)
    W[:, -1] = 1.0  # far beyond the levels
    quantizer = Grid(bits=4).fit(W[:, :-1], H)
    with_feedback = proxy_loss(W, run(LDLQ(), W, H, quantizer).weight, H)
    clipped = W.clamp(-float(quantizer.scale), float(quantizer.scale))  # type: ignore[attr-defined]
    before_feedback = proxy_loss(W, run(LDLQ(), clipped, H, quantizer).weight, H)
    assert with_feedback < 0.8 * before_feedback  # measured: 0.65


def test_inputs_that_are_always_zero_are_rounded_to_nearest() -> None:
    W, H = problem(6, 32)
    H[:, 5] = H[5] = 0
    quantizer = Grid(bits=3).fit(W, H)
    rounded = run(LDLQ(sweeps=1), W, H, quantizer).weight
    assert torch.equal(rounded[:, [5]], quantizer.round(W[:, [5]], 5)[0])
    assert torch.isfinite(rounded).all()


def test_one_direction_of_input() -> None:
    W, _ = problem(6, 32)
    x = torch.linspace(-1, 1, 32)
    H = torch.outer(x, x)
    assert proxy_loss(W, run(LDLQ(sweeps=1), W, H, E8P().fit(W, H)).weight, H) < 1e-2


def test_singular_without_damping_is_an_error_with_a_name() -> None:
    W, _ = problem(4, 8)
    with pytest.raises(QuipError, match="not positive definite") as caught:
        run(LDLQ(damping=0.0), W, torch.zeros(8, 8), E8P().fit(W, W))
    assert caught.value.code == "QUANT_UNSTABLE"


def test_W_and_H_are_left_alone() -> None:
    W, H = problem(6, 32)
    before = W.clone(), H.clone()
    run(LDLQ(sweeps=2), W, H, E8P().fit(W, H))
    assert torch.equal(W, before[0])
    assert torch.equal(H, before[1])


def test_published_codes(reference: Path) -> None:
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    W, H = golden["rht_Wr"], golden["rht_Hr"]
    quantizer = E8PQuantizer(W.square().mean().sqrt().reshape(1) / 1.03)
    rounded = run(LDLQ(damping=0.0, metric=False), W, H, quantizer)
    assert torch.equal(torch.stack(rounded.codes, 1), golden["ldlq_idx"])


@pytest.mark.parametrize("order", ["natural", "largest-first"])
@pytest.mark.parametrize(("codebook", "beam"), [(RowGrid(bits=3), 1), (E8P(), 4)], ids=str)
def test_it_works_in_W_and_H_and_gives_them_back(codebook: RowGrid | E8P, beam: int, order: str) -> None:
    W, H = problem(12, 300)
    H = H / 2 + H.T / 2
    given = W.T.contiguous().T, H.clone()
    run(LDLQ(order=order, beam=beam, sweeps=1), *given, codebook.fit(W, H))
    assert torch.equal(given[0], W) and torch.equal(given[1], H)


@pytest.mark.parametrize("order", ["natural", "largest-first"])
def test_an_H_it_cannot_use_is_given_back(order: str) -> None:
    W, H = problem(4, 40)
    H = torch.diag(torch.arange(1.0, 41))
    H[0, 39] = H[39, 0] = 1e4
    before = H.clone()
    with pytest.raises(QuipError):
        run(LDLQ(order=order), W, H, Grid(bits=2).fit(W, H))
    assert torch.equal(H, before)
