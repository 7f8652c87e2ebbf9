"""Packed layers made from random bits or real rounding, and what every product must do with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.products import Packed, product_of, reference
from quip_engine.rounding.nearest import Nearest

EXACT = 1e-5  # relative error of float products
INT8 = 5e-3  # and of those with 8-bit activations, at widths of hundreds


def rounded(codebook: Codebook, m: int, n: int, seed: int = 0) -> Packed:
    """A seeded Gaussian matrix rounded to nearest."""
    generator = torch.Generator().manual_seed(seed)
    W, H = torch.randn(m, n, generator=generator), torch.eye(n)
    quantizer = codebook.fit(W, H)
    tensors = quantizer.pack(Nearest().round(W, H, quantizer, generator).codes)
    return Packed(codebook, tensors, m, n)


def inputs(n: int, b: int = 1, seed: int = 1) -> Tensor:
    """x: (b, n) with a few large entries, as activations have them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, generator=generator)
    x[:, :: max(1, n // 5)] *= 8
    return x


def relative_error(y: Tensor, truth: Tensor) -> float:
    return float((y.double() - truth.double()).norm() / truth.double().norm())


def check_product(layer: Packed, b: int = 1, activations: str = "float", limit: float = EXACT) -> None:
    """``multiply`` and ``unpack`` of the layer's product against ``reference``."""
    product = product_of(layer.codebook, layer.device, activations)
    assert product is not None
    x = inputs(layer.n, b)
    assert relative_error(product.multiply(layer, x, activations), reference(layer, x)) <= limit
    W = layer.codebook.decode(layer.tensors, layer.m, layer.n)
    assert relative_error(product.unpack(layer, torch.float32), W) <= 1e-6
    assert relative_error(product.unpack(layer, torch.bfloat16).float(), W) <= 4e-3


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
