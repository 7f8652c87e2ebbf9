"""Hadamard matrices of every order, transforms of every width, and the QuIP# convention."""

from __future__ import annotations

import ctypes
import hashlib
import math
from functools import reduce
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from quip_engine.errors import QuipError
from quip_engine.linalg import hadamard as module
from quip_engine.linalg.hadamard import PUBLISHED, Hadamard, awkward_part, describe, factors, orders
from quip_engine.linalg.hadamard_orders import (
    WILLIAMSON,
    construction,
    hadamard_matrix,
    jacobsthal,
    parity,
    prime_power,
)
from quip_engine.native import library


def dense(n: int) -> Tensor:
    """V_n as a matrix: its columns are the images of the unit vectors."""
    return Hadamard(n).forward(torch.eye(n)).T


@pytest.mark.parametrize("order", [n for n in range(1, 257) if construction(n)])
def test_rows_of_an_order_are_orthogonal_signs(order: int) -> None:
    H = hadamard_matrix(order)
    assert torch.equal(H.abs(), torch.ones(order, order))
    assert torch.equal(H @ H.T, order * torch.eye(order))


def test_all_multiples_of_four_up_to_256_but_two_have_a_product() -> None:
    assert [n for n in range(4, 257, 4) if orders(n) is None] == [188, 236]


def test_constructions_of_the_published_orders() -> None:
    by_name: dict[str | None, set[int]] = {}
    for order in PUBLISHED:
        by_name.setdefault(construction(order), set()).add(order)
    assert by_name == {
        "paley I": {12, 20, 60, 108, 140},
        "paley II": {28, 36},
        "williamson": {52, 116, 124, 156, 172},
    }


@pytest.mark.parametrize("order", [12, 20, 60, 108, 140])
def test_published_paley_1_orders_are_skew(order: int) -> None:
    H = hadamard_matrix(order)
    assert torch.equal(H + H.T, 2 * torch.eye(order))
    assert torch.equal(H[0, 1:], -torch.ones(order - 1)) and torch.equal(H[:, 0], torch.ones(order))
    squares = {i * i % (order - 1) for i in range(1, order - 1)}
    assert [j for j in range(1, order - 1) if H[1, 1 + j] == -1] == sorted(squares)


@pytest.mark.parametrize("order", [28, 36])
def test_published_paley_2_orders_are_symmetric(order: int) -> None:
    H = hadamard_matrix(order)
    assert torch.equal(H, H.T)
    assert torch.equal(H[: order // 2, order // 2 :] + 2 * torch.eye(order // 2), H[: order // 2, : order // 2])


@pytest.mark.parametrize("order", sorted(WILLIAMSON))
def test_williamson_rows_are_symmetric(order: int) -> None:
    n = order // 4
    for row in WILLIAMSON[order].split():
        bits = f"{int(row, 16):0{n}b}"
        assert len(bits) == n and bits[1:] == bits[:0:-1]


@pytest.mark.parametrize("q", [3, 9, 13, 25, 27, 49, 81, 125, 343])
def test_jacobsthal_matrix_of_a_field(q: int) -> None:
    Q = jacobsthal(q)  # Q Q^T = q I - J, Q J = 0, and symmetric exactly where -1 is a square
    assert torch.equal(Q @ Q.T, q * torch.eye(q) - 1)
    assert not Q.sum(1).any()
    assert torch.equal(Q.T, Q if q % 4 == 1 else -Q)


def test_prime_powers() -> None:
    found = {q: prime_power(q) for q in (2, 4, 9, 15, 17, 27, 45, 343)}
    assert found == {2: None, 4: None, 9: (3, 2), 15: None, 17: (17, 1), 27: (3, 3), 45: None, 343: (7, 3)}


def test_parity_counts_bits() -> None:
    x = torch.tensor([0, 1, 2, 3, 255, 256, 2**31 + 1, 2**31 + 3])
    assert parity(x).tolist() == [bin(v).count("1") % 2 for v in x.tolist()]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, ()),
        (4096, (4096,)),
        (24, (12, 2)),  # not Paley I over 23: the published K comes first
        (11008, (172, 64)),
        (14336, (28, 512)),
        (184, (92, 2)),
        (29568, (44, 28, 12, 2)),  # 231 = 3 x 7 x 11: no single K
        (25600, (20, 20, 64)),
        (18944, (148, 128)),
        (13696, None),  # 2^7 x 107
        (86, None),
    ],
)
def test_orders(n: int, expected: tuple[int, ...] | None) -> None:
    assert orders(n) == expected


# fmt: off
WIDTHS_OF_MODELS = [
    576, 768, 896, 960, 1024, 1152, 1536, 2048, 2304, 2560, 2816, 3072, 3584, 4096, 4864, 5120, 5632, 6656,
    6912, 8192, 8960, 9728, 11008, 12288, 13824, 14336, 14848, 17408, 17920, 18432, 18944, 25600, 27648, 28672,
    29568, 53248,
]
# fmt: on


@pytest.mark.parametrize("n", WIDTHS_OF_MODELS)
def test_widths_of_models_have_small_factors(n: int) -> None:
    sizes = factors(n)
    assert sizes is not None and math.prod(sizes) == n
    assert len(sizes) <= 3 and max(sizes) <= 172


@pytest.mark.parametrize(
    ("n", "name"),
    [
        (1, "identity"),
        (344, "hadamard(172) x hadamard(2)"),
        (172, "hadamard(172)"),
        (105, "orthogonal(105)"),
        (46, "orthogonal(23) x hadamard(2)"),
        (13696, "orthogonal(107) x hadamard(128)"),
    ],
)
def test_describe_names_what_is_done(n: int, name: str) -> None:
    assert describe(n) == name
    assert (factors(n) is None) == (awkward_part(n) > 1) == name.startswith("orthogonal")


@pytest.mark.parametrize("n", [12, 46, 52, 105, 172, 352, 384, 1024, 1680])
def test_transform_is_orthogonal(n: int) -> None:
    V = dense(n).double()
    assert (V @ V.T - torch.eye(n)).abs().max() < 1e-6  # 2e-7
    assert (Hadamard(n).transpose(torch.eye(n)).T - V.T).abs().max() < 1e-6


@given(n=st.integers(1, 700))
@settings(max_examples=60, deadline=None)
def test_any_width_goes_there_and_back(n: int) -> None:
    x = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(n))
    V = Hadamard(n)
    y = V.forward(x)
    assert y.shape == x.shape and y.dtype == torch.float32
    assert (y.norm(dim=-1) / x.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (V.transpose(y) - x).norm() < 1e-6 * x.norm()


@pytest.mark.parametrize("n", [24, 104, 384, 688, 1680])
def test_grouped_factors_are_the_product_of_the_orders(n: int) -> None:
    expected = reduce(torch.kron, (hadamard_matrix(K) for K in orders(n) or ())) / math.sqrt(n)
    assert (dense(n) - expected).abs().max() < 1e-6


def test_a_width_with_a_large_awkward_part_is_refused() -> None:
    with pytest.raises(QuipError) as error:
        Hadamard(4099)  # prime, above the widest dense rotation
    assert error.value.code == "WIDTH_UNSUPPORTED"


def test_the_stored_format_has_not_changed() -> None:
    """Signs of V_n at widths of every kind. A new digest means that saved models would be read wrongly."""
    widths = (46, 64, 92, 105, 172, 184, 300, 344, 352, 560, 752)
    bits = b"".join(bytes((dense(n) > 0).flatten().tolist()) for n in widths)
    assert hashlib.sha256(bits).hexdigest() == "0499a3d7a6c1c460c8cc266c08143698d6b5e7c83d0c78506bc7a6a547c8f2b0"


def test_published_transform(reference: Path) -> None:
    golden = load_file(reference / "golden" / "quipsharp_golden.safetensors")
    for n in (12, 24):
        assert (Hadamard(n).forward(torch.eye(n)) - golden[f"hadU_eye{n}"]).abs().max() < 1e-6
    assert (Hadamard(12).transpose(torch.eye(12)) - golden["hadUt_eye12"]).abs().max() < 1e-6


@pytest.mark.parametrize("n", [16, 32, 64, 512, 4096, 172 * 64, 28 * 512, 96, 23 * 32])
def test_kernel_and_torch_agree(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    compiled = [Hadamard(n).forward(x), Hadamard(n).transpose(x), Hadamard(n).forward(x.T.contiguous().T)]
    monkeypatch.setenv("QUIP_KERNELS", "off")
    plain = [Hadamard(n).forward(x), Hadamard(n).transpose(x), Hadamard(n).forward(x)]
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernels", ["", "off"], ids=["kernels", "torch"])
@pytest.mark.parametrize("n", [16, 64, 4096, 28 * 32, 2**17])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtypes_on_the_way_are_conversions_before_and_after(
    dtype: torch.dtype, n: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIP_KERNELS", kernels)
    x, signs, plus = vectors(n)
    V, x = Hadamard(n), x.to(dtype)
    forward = V.forward(x.float(), signs) + plus
    assert torch.equal(V.forward(x, signs, plus, dtype), forward.to(dtype))
    assert torch.equal(V.forward(x, signs, plus), forward)
    assert torch.equal(V.forward(x, plus=plus.half()), V.forward(x.float()) + plus.half())
    assert torch.equal(V.transpose(x, signs, dtype), V.transpose(x.float(), signs).to(dtype))
    assert torch.equal(V.transpose(x, signs), V.transpose(x.float(), signs))


def vectors(n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, signs, plus = (torch.randn(rows, n, generator=generator) for rows in (3, 1, 1))
    return x, signs[0].sign(), plus[0]


def test_sums_are_those_of_butterflies_whatever_the_cpu(
    variants: dict[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernels in filter(None, [library(), *variants.values()]):
        monkeypatch.setattr(module, "library", lambda kernels=kernels: kernels)
        for n in (2**r for r in range(4, 14)):
            x, signs, plus = vectors(n)
            y, h = (x * n**-0.5).unflatten(1, (-1, 1)), 1
            while h < n:
                y, h = y.view(3, -1, 2, h), 2 * h
                y = torch.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), 2)
            expected = y.view(3, n) * signs + plus
            assert torch.equal(Hadamard(n).forward(x, signs, plus), expected)
            assert torch.equal(Hadamard(n).forward(x, signs, plus, torch.bfloat16), expected.bfloat16())


@pytest.mark.skipif(library() is None, reason="torch converts")
def test_no_number_stays_none() -> None:
    x = torch.zeros(2, 64)
    x[0, 5], x[1, 5] = torch.nan, torch.inf
    y = Hadamard(64).forward(x, dtype=torch.bfloat16)
    assert y[0].isnan().all() and y[1].isinf().all()


def test_a_bias_has_a_gradient() -> None:
    plus = torch.zeros(64, requires_grad=True)
    Hadamard(64).forward(torch.zeros(3, 64), plus=plus, dtype=torch.bfloat16).sum().backward()
    assert plus.grad is not None and plus.grad.eq(3).all()


def test_transform_has_a_gradient() -> None:
    x = torch.randn(2, 64, requires_grad=True)
    Hadamard(64).forward(x)[:, 0].sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 64), 1 / 8))
