"""NaN and infinities are named where they first appear: they would pass a Cholesky factorization unseen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quip_engine.errors import fail
from quip_engine.linalg.hessian import ROWS


def not_finite(tensor: Tensor) -> int:
    """How many elements are NaN or infinite; without a copy of the whole."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)
    return sum(int((~torch.isfinite(some)).sum()) for some in rows.split(ROWS))


def check_weights(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Weights as they were read, by name. Raises ``NON_FINITE_WEIGHT``."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_meta and (count := not_finite(tensor)):
            fail("NON_FINITE_WEIGHT", name=name, count=count)


def check_stored(tensors: dict[str, Tensor]) -> None:
    """Tensors that will be loaded later, by name. Raises ``NON_FINITE``."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (count := not_finite(tensor)):
            fail("NON_FINITE", name=name, count=count, remedy="Use another method, or a copy in a wider type.")
