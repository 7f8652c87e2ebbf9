"""y = x W^T with W in parts: beside float64, for any shape, part and number of threads."""

from __future__ import annotations

from ctypes import c_int64

import pytest
import torch
from torch import Tensor

from quip_engine.linalg.gemm import Gemm
from quip_engine.native import library

SHAPES = [(1, 2, 1), (1, 64, 64), (5, 66, 1), (17, 100, 97), (33, 31, 50)]  # b, n, m
SHAPES += [(37, 258, 200), (63, 510, 111), (64, 256, 96), (600, 130, 333), (513, 62, 95), (65, 2114, 30), (2, 30, 800)]


def product(x: Tensor, W: Tensor, *starts: int) -> Tensor:
    """In parts of W that begin at the starts, into columns of a wider y."""
    y = torch.full((len(x), len(W) + 3), torch.nan)
    gemm = Gemm(x, W.dtype)
    for start, stop in zip((0, *starts), (*starts, len(W)), strict=True):
        gemm.into(y[:, 1 + start : 1 + stop], W[start:stop])
    assert y[:, 0].isnan().all() and y[:, -2:].isnan().all()
    return y[:, 1:-2]


def drawn(b: int, n: int, m: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b)
    return torch.randn(b, n, generator=generator), torch.randn(m, n, generator=generator).to(dtype)


@pytest.mark.parametrize("kernels", ["", "off"], ids=["kernels", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_like_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIP_KERNELS", kernels)
    x, W = drawn(*shape, dtype)
    truth = x.to(dtype).double() @ W.double().T
    exact = dtype == torch.float32 or in_c(shape[1])
    limit = 1e-6 if exact else 4e-3  # measured: 2e-7; torch rounds y to bfloat16: 1.7e-3
    assert (product(x, W) - truth).norm() <= limit * truth.norm()


def in_c(n: int) -> bool:
    kernels = library()
    return kernels is not None and kernels.gemm_room(c_int64(1), c_int64(n)) > 0


@pytest.mark.skipif(not in_c(2), reason="torch multiplies")
def test_bits_depend_neither_on_parts_nor_on_threads_nor_on_other_rows() -> None:
    x, W = drawn(530, 300, 400)
    whole = product(x, W)
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(product(x, W, 1, 200, 397), whole)
    finally:
        torch.set_num_threads(before)
    for b in (1, 16, 17, 40, 64, 100):
        assert torch.equal(product(x[:b], W), whole[:b])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_input_of_the_product_s_type_gives_the_same_bits(shape: tuple[int, int, int]) -> None:
    x, W = drawn(*shape)
    assert torch.equal(product(x.bfloat16(), W), product(x, W))


@pytest.mark.skipif(not in_c(2), reason="torch multiplies")
def test_nothing_of_what_lies_behind_is_read() -> None:
    x, W = drawn(3, 34, 7)
    framed = torch.full((9, 34), torch.nan)
    framed[:3] = x
    wide = torch.full((20, 34), torch.nan, dtype=torch.bfloat16)
    wide[:7] = W
    assert torch.equal(product(framed[:3], wide[:7]), product(x, W))
