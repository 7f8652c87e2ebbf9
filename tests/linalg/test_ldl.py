from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.linalg.ldl import block_ldl_


def unit_lower(L: Tensor, block: int) -> Tensor:
    """L as ``block_ldl_`` means it: what is below the diagonal blocks, and ones on the diagonal."""
    number = torch.arange(len(L)) // block
    return torch.where(number[:, None] > number, L, 0) + torch.eye(len(L))


def random_hessian(n: int, seed: int = 0) -> Tensor:
    X = torch.randn(3 * n, n, generator=torch.Generator().manual_seed(seed))
    return X.T @ X / len(X)


@pytest.mark.parametrize(("n", "block"), [(24, 8), (20, 8), (7, 8), (9, 1), (30, 16), (5, 2)])
def test_factors_multiply_back_to_H(n: int, block: int) -> None:
    H = random_hessian(n)
    C = torch.linalg.cholesky(H) + H.triu(1)
    L, D = block_ldl_(C.clone(), block)
    inside = torch.block_diag(*[torch.ones(len(d), len(d)) for d in D]).bool()
    assert torch.equal(torch.where(inside, L, L.triu(1)), torch.where(inside, C, C.triu(1)))  # all else is left alone
    L = unit_lower(L, block)
    assert torch.allclose(L @ torch.block_diag(*D) @ L.T, H, atol=1e-5)


def test_one_column_wide_it_is_the_scalar_ldl() -> None:
    C = torch.linalg.cholesky(random_hessian(12))
    L, D = block_ldl_(C.clone(), 1)
    assert torch.allclose(unit_lower(L, 1), C / C.diagonal(), atol=1e-6)
    assert torch.allclose(torch.cat(D).flatten(), C.diagonal().square())


def test_published_factors(reference: Path) -> None:
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    L, D = block_ldl_(torch.linalg.cholesky(golden["rht_Hr"]), 8)
    assert torch.allclose(unit_lower(L, 8), golden["bldl_L"], atol=1e-6)
    assert torch.allclose(torch.stack(D), golden["bldl_D"], rtol=1e-5, atol=1e-6)
