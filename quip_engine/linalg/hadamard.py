"""Orthogonal Hadamard transforms of any width, as Kronecker products of small dense factors.

    V_n = (H_{K_1} (x) .. (x) H_{K_j} (x) S_{2^r}) / sqrt(n)        n = K_1 .. K_j 2^r

H_K is a Hadamard matrix of order K (``hadamard_orders``), S Sylvester's, on the trailing index: the convention of
QuIP# (arXiv 2402.04396, section 3), which knows j <= 1 and twelve K. V_n is a stored format: ``orders`` must never
choose differently. How the product is grouped for speed (``factors``) may change, the matrix does not.

Where no product exists (odd widths, 2 x odd, a few rare orders) the smallest part p of n that is in the way becomes
a fixed random orthogonal matrix:

    V_n = Q_p (x) V_{n/p}

``describe`` names what is done. On a CPU with kernels, Sylvester's part is done by butterflies in C
(``native/hadamard.c``): in torch each of their stages would be a pass over memory, and so is each change of dtype; in C
a vector stays in the cache from its read to its write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from ctypes import c_float, c_int, c_int64
from functools import cache, reduce

import torch
from torch import Tensor

from quip_engine.linalg.hadamard_orders import LARGEST_ORDER, construction, hadamard_matrix
from quip_engine.linalg.kronecker import kronecker_apply, kronecker_apply_transpose
from quip_engine.linalg.orthogonal import haar
from quip_engine.native import converted, fresh, in_threads, library, pointer

PUBLISHED = frozenset({12, 20, 28, 36, 52, 60, 108, 116, 124, 140, 156, 172})  # the K of QuIP#
ORTHOGONAL_SEED = 0x5155  # draws Q_p; a stored format like the orders
PASS_COST, SMALLEST_COST = 60, 16  # of a factor, in operations per entry: a pass over memory, and what a tiny one costs
SMALLEST_IN_C = 16  # of Sylvester's part: shorter vectors leave the kernel nothing to do
WORTH_A_THREAD = 2**16  # numbers
IN_C = (torch.float32, torch.bfloat16)
LARGEST_BRIEF = 2**16  # written as bfloat16: a vector waits on the stack


@cache
def orders(n: int) -> tuple[int, ...] | None:
    """Orders K_1 >= .. >= K_j, then 2^r where it is not 1, whose product is n; None where no product exists.

    One of the published K where one fits; else the product with the smallest sum of orders.
    """
    odd = n // (n & -n)
    if 4 * odd in PUBLISHED and n % (4 * odd) == 0:
        best: tuple[int, ...] = (4 * odd,)
    else:
        chosen = [tuple(map(_smallest_order, parts)) for parts in _products(odd, odd)]
        fitting = [ks for ks in chosen if all(ks) and n % math.prod(ks) == 0]
        if not fitting:
            return None
        best = min(fitting, key=lambda ks: (sum(ks), ks))
    rest = n // math.prod(best)
    return tuple(sorted(best, reverse=True)) + ((rest,) if rest > 1 else ())


def factors(n: int) -> tuple[int, ...] | None:
    """Sizes of the dense factors V_n is applied with, or None where n has no product of Hadamard orders.

    Neighbours of the product (its power of two as single twos) are merged where that makes the transform cheaper.
    """
    found = orders(n)
    return None if found is None else tuple(math.prod(group) for group in _grouped(_atoms(found)))


@cache
def awkward_part(n: int) -> int:
    """p: the smallest odd divisor of n without which n has a product of orders; 1 where it has one."""
    return next(p for p in range(1, n + 1, 2) if n % p == 0 and orders(n // p) is not None)


def describe(n: int) -> str:
    """What V_n is, for example ``hadamard(172) x hadamard(64)`` or ``orthogonal(23) x hadamard(2)``."""
    p = awkward_part(n)
    names = [f"orthogonal({p})"] if p > 1 else []
    return " x ".join(names + [f"hadamard({K})" for K in orders(n // p) or ()]) or "identity"


class Hadamard:
    """V_n, ready to use on tensors of ``device``. Raises ``WIDTH_UNSUPPORTED`` where n has an awkward part too wide."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self._factors = _matrices(n, torch.device(device))
        self._leading, self._sylvester = _leading(n, torch.device(device))

    def forward(
        self,
        x: Tensor,
        after: Tensor | None = None,
        plus: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """diag(after) V x + plus over the last axis of x: (..., n) of any float dtype; after, plus: (n,).

        Computed in float32, also where the result is of another dtype.
        """
        plain = plus is None or _plain(plus)
        if not self._in_c(x, after):
            y = kronecker_apply(self._factors, converted(x, torch.float32))
        elif not self._leading and plain:
            return sylvester(x, self._sylvester, after=after, plus=plus, dtype=dtype)
        else:
            y = kronecker_apply(self._leading, sylvester(x, self._sylvester), self._sylvester)
        y = y if after is None else y * after
        return converted(y if plus is None else y + plus, dtype)

    def transpose(self, x: Tensor, before: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """V^T diag(before) x over the last axis of x, as ``forward``. Not V x: H_K may be asymmetric."""
        if not self._in_c(x, before):
            x = converted(x, torch.float32)
            y = kronecker_apply_transpose(self._factors, x if before is None else x * before)
        elif not self._leading:
            return sylvester(x, self._sylvester, before=before, dtype=dtype)
        else:
            y = sylvester(x, self._sylvester, before=before)
            y = kronecker_apply_transpose(self._leading, y, self._sylvester)
        return converted(y, dtype)

    def _in_c(self, x: Tensor, vector: Tensor | None) -> bool:
        if x.device.type != "cpu" or self._sylvester < SMALLEST_IN_C or torch.compiler.is_compiling():
            return False
        trained = x.requires_grad or (vector is not None and vector.requires_grad)
        return not (trained and torch.is_grad_enabled()) and library() is not None


def sylvester(
    x: Tensor,
    size: int,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    plus: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """diag(after) (I (x) S_size) diag(before) x / sqrt(size) + plus over the last axis of x, by the C kernel.

    It reads and writes float32 and bfloat16; other dtypes are converted.
    """
    kernels = library()
    assert kernels is not None
    x = converted(x, x.dtype if x.dtype in IN_C else torch.float32).contiguous()
    plus = None if plus is None else plus.float()
    y = fresh(*x.shape, dtype=dtype if dtype in IN_C and size <= LARGEST_BRIEF else torch.float32)
    read, written = (c_int(z.dtype == torch.bfloat16) for z in (x, y))
    data = pointer(x), read, pointer(before), pointer(after), pointer(plus), pointer(y), written
    shape = c_int64(x.shape[-1] // size), c_int64(size), c_float(size**-0.5)

    def transform(start: int, stop: int) -> None:
        kernels.sylvester(*data, *shape, c_int64(start), c_int64(stop))

    in_threads(transform, x.numel() // size, least=WORTH_A_THREAD // size)
    return converted(y, dtype)


def _plain(vector: Tensor) -> bool:
    """Whether adding it in float32 is adding it."""
    return vector.dtype.itemsize <= torch.float32.itemsize and not (vector.requires_grad and torch.is_grad_enabled())


def _smallest_order(odd: int) -> int:
    """The smallest order of a single construction with this odd part, 0 where none is at most ``LARGEST_ORDER``."""
    multiples = (odd * 2**j for j in range(2, LARGEST_ORDER.bit_length()))
    return next((order for order in multiples if construction(order)), 0)


def _products(n: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Ways to write odd n as a product of factors from 3 to ``largest``, largest factor first; () for 1."""
    if n == 1:
        yield ()
    for d in range(3, min(n, largest) + 1, 2):
        if n % d == 0:
            yield from ((d, *rest) for rest in _products(n // d, d))


def _atoms(found: tuple[int, ...]) -> tuple[int, ...]:
    """The product with its power of two split into twos."""
    return tuple(atom for K in found for atom in ((2,) * (K.bit_length() - 1) if K & (K - 1) == 0 else (K,)))


@cache
def _grouped(atoms: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The cheapest way to merge neighbouring atoms into dense factors."""

    def cost(groups: tuple[tuple[int, ...], ...]) -> int:
        return sum(max(math.prod(group), SMALLEST_COST) + PASS_COST for group in groups)

    best: list[tuple[tuple[int, ...], ...]] = [()]  # of the first i atoms
    for end in range(1, len(atoms) + 1):
        best.append(min(((*best[start], atoms[start:end]) for start in range(end)), key=cost))
    return best[-1]


@cache
@torch.inference_mode(False)
def _matrices(n: int, device: torch.device) -> tuple[Tensor, ...]:
    """The orthogonal factors of V_n, float32 on ``device``."""
    p = awkward_part(n)
    matrices = [_merged(group) for group in _grouped(_atoms(orders(n // p) or ()))]
    if p > 1:
        matrices.insert(0, _awkward(p))
    return tuple(matrix.to(device) for matrix in matrices)


@cache
@torch.inference_mode(False)
def _leading(n: int, device: torch.device) -> tuple[tuple[Tensor, ...], int]:
    """The orthogonal factors of V_n before Sylvester's part, float32 on ``device``, and the size of that part."""
    p = awkward_part(n)
    atoms = tuple(atom for atom in _atoms(orders(n // p) or ()) if atom != 2)
    matrices = [_merged(group) for group in _grouped(atoms)]
    if p > 1:
        matrices.insert(0, _awkward(p))
    return tuple(matrix.to(device) for matrix in matrices), n // p // math.prod(atoms)


@cache
def _awkward(p: int) -> Tensor:
    """Q_p."""
    return haar(p, torch.Generator().manual_seed(ORTHOGONAL_SEED))


@cache
def _merged(group: tuple[int, ...]) -> Tensor:
    H = reduce(torch.kron, map(hadamard_matrix, group))
    return H / math.sqrt(H.shape[0])
