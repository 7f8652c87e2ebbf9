"""Gathering, checking and factorizing H."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quip_engine.errors import QuipError
from quip_engine.linalg.hessian import Hessian, check_hessian, cholesky, cholesky_, damped, reorder_, restore_


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank(n: int, rank: int) -> Tensor:
    X = gaussian(rank, n)
    return X.T @ X / rank


def test_mean_of_outer_products_over_many_batches() -> None:
    X = gaussian(400, 16, 24) * torch.logspace(-2, 2, 24)  # 400 batches of 16 tokens
    H = Hessian(24)
    for batch in X.split(1):
        H.add(batch)
    rows = X.reshape(-1, 24).double()
    expected = rows.T @ rows / len(rows)
    scale = expected.diagonal().sqrt()
    assert H.tokens == 6400
    assert H.matrix().dtype == torch.float32 and torch.equal(H.matrix(), H.matrix().T)
    assert ((H.matrix() - expected) / torch.outer(scale, scale)).abs().max() < 2e-6  # 3e-7


def test_any_float_dtype_and_shape_is_taken_and_nothing_from_nothing() -> None:
    H = Hessian(4)
    H.add(torch.empty(0, 4))
    assert H.tokens == 0 and not H.matrix().any()
    H.add(torch.full((2, 3, 4), 300.0, dtype=torch.float16))  # the square overflows float16
    H.add(torch.full((4,), 300.0, dtype=torch.bfloat16, requires_grad=True))
    assert H.tokens == 7
    assert torch.allclose(H.matrix(), torch.full((4, 4), 90000.0))


def test_check_returns_exactly_symmetric_float32() -> None:
    H = low_rank(6, 20).double()
    checked, notes = check_hessian(H + 1e-6 * gaussian(6, 6), 6, "W")
    assert checked.dtype == torch.float32 and torch.equal(checked, checked.T)
    assert not notes


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda H: H[:, :5], "BAD_PROBLEM"),
        (lambda H: H + torch.triu(torch.ones(6, 6), 1), "BAD_PROBLEM"),
        (lambda H: -H, "BAD_PROBLEM"),
        (lambda H: H.index_put((torch.tensor(0), torch.tensor(5)), torch.tensor(torch.nan)), "NON_FINITE"),
        (lambda H: H.index_put((torch.tensor(3), torch.tensor(3)), torch.tensor(torch.inf)), "NON_FINITE"),
    ],
    ids=["not square", "not symmetric", "negative", "NaN in the upper triangle", "infinite diagonal"],
)
def test_check_refuses(change: object, code: str) -> None:
    with pytest.raises(QuipError) as error:
        check_hessian(change(low_rank(6, 20)), 6, "q_proj")  # type: ignore[operator]
    assert error.value.code == code
    assert "q_proj" in str(error.value)


def test_no_signal_becomes_the_identity_and_dead_inputs_are_counted() -> None:
    H, notes = check_hessian(torch.zeros(3, 3), 3, "W")
    assert torch.equal(H, torch.eye(3)) and "no calibration signal" in notes[0]
    dead = low_rank(6, 20)
    dead[[1, 4]] = dead[:, [1, 4]] = 0
    H, notes = check_hessian(dead, 6, "W")
    assert notes == ["2 of 6 inputs are always zero in the calibration text"]
    L, _ = cholesky(H, 0.01, "W")
    assert torch.allclose(L @ L.T, damped(H, 0.01), atol=1e-5)


def test_damping_is_relative_to_the_mean_of_the_diagonal() -> None:
    H = torch.diag(torch.tensor([1.0, 3.0]))
    assert torch.equal(damped(H, 0.5), torch.diag(torch.tensor([2.0, 4.0])))
    assert torch.equal(H, torch.diag(torch.tensor([1.0, 3.0])))


def test_cholesky_of_a_regular_matrix_needs_no_note() -> None:
    H = low_rank(8, 40)
    L, notes = cholesky(H, 0.01, "W")
    assert not notes and torch.equal(L, L.tril())
    assert torch.allclose(L @ L.T, damped(H, 0.01), atol=1e-5)


def test_cholesky_with_fewer_samples_than_inputs() -> None:
    L, notes = cholesky(low_rank(64, 8), 0.01, "W")
    assert not notes and torch.isfinite(L).all()


def test_cholesky_falls_back_and_says_so() -> None:
    L, notes = cholesky(torch.ones(5, 5), 1e-9, "W")  # the damping is lost in float32
    assert torch.isfinite(L).all()
    assert notes == ["H is close to singular: factorized in float64"]
    L, notes = cholesky(torch.diag(torch.tensor([1.0, 1.0, -0.05])), 0.01, "W")
    assert torch.isfinite(L).all()
    assert notes == ["H is close to singular: damping raised to 0.1"]


@pytest.mark.parametrize("largest", [1e20, 3e38])
def test_cholesky_is_finite_under_an_outlier(largest: float) -> None:
    H = torch.eye(4)
    H[2, 2] = largest
    L, _ = cholesky(check_hessian(H, 4, "W")[0], 0.01, "W")
    assert torch.isfinite(L).all()


def test_cholesky_refuses_what_no_damping_mends() -> None:
    with pytest.raises(QuipError) as error:
        cholesky(torch.tensor([[1.0, 100.0], [100.0, 1.0]]), 0.01, "fc1")
    assert error.value.code == "QUANT_UNSTABLE" and "fc1" in str(error.value)


@pytest.mark.parametrize("n", [5, 256, 600])  # less than one strip of columns, one, some
def test_in_place_the_factor_leaves_what_makes_H_again(n: int) -> None:
    H = low_rank(n, 2 * n)
    C = H.clone()
    diagonal, ridge, notes = cholesky_(C, 0.01, "W")
    assert not notes and torch.equal(C.triu(1), H.triu(1))
    expected = torch.linalg.cholesky(H.double() + ridge * torch.eye(n))
    assert torch.allclose(C.tril().double(), expected, atol=1e-5)  # 6e-7 measured
    restore_(C, diagonal)
    assert torch.equal(C, H)


def test_what_cannot_be_factorized_is_left_alone() -> None:
    H = torch.eye(300)
    H[0, 299] = H[299, 0] = 100
    before = H.clone()
    with pytest.raises(QuipError):
        cholesky_(H, 0.01, "fc1")
    assert torch.equal(H, before)


def test_rows_and_columns_in_another_order() -> None:
    H, order = low_rank(300, 20), torch.randperm(300, generator=torch.Generator().manual_seed(0))
    moved = H.clone()
    reorder_(moved, order)
    assert torch.equal(moved, H[order][:, order])


def test_tokens_count_with_their_weights() -> None:
    X, w = gaussian(300, 24), gaussian(300, seed=1).square()
    H = Hessian(24)
    for x, weights in zip(X.split(70), w.split(70), strict=True):
        H.add(x, weights)
    torch.testing.assert_close(H.matrix(), (X * w[:, None]).T @ X / 300, rtol=1e-4, atol=1e-5)
    alike, plain = Hessian(24), Hessian(24)
    alike.add(X, torch.ones(300))
    plain.add(X)
    assert torch.equal(alike.matrix(), plain.matrix())


@pytest.mark.parametrize("n", [256, 300, 700])
def test_half_a_mean_is_the_lower_half_of_the_whole(n: int) -> None:
    X, w = gaussian(64, n), gaussian(64, seed=1).square()
    H, whole = Hessian(n), torch.zeros(n, n)
    for taken, (x, weights) in enumerate(zip(X.split(16), w.split(16), strict=True)):
        H.add(x, weights)
        whole.addmm_(x.T, x * weights[:, None], beta=taken / (taken + 1), alpha=1 / (16 * (taken + 1)))
    torch.testing.assert_close(H.matrix().tril(-1), whole.tril(-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(H.matrix(), H.matrix().T)


def test_a_blend_of_two() -> None:
    first, second = Hessian(300), Hessian(300)
    first.add(gaussian(40, 300))
    second.add(gaussian(50, 300, seed=1))
    expected = first.matrix().mul_(0.25) + second.matrix() * 0.75
    first.blend_(second, 0.25)
    torch.testing.assert_close(first.matrix(), expected, rtol=1e-6, atol=1e-6)
    assert first.tokens == 40
