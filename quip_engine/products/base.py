"""From codes to a matrix product, the layer staying packed.

    y = x W~^T        x: (b, n)        W~ = decode(codes): (m, n)

One token at a time, reading weights is all the work: codes are decoded in registers and multiplied on the fly
(``multiply``). With many rows, decoding once for all of them is cheaper: the layer is unpacked, multiplied by GEMM and
dropped again (``unpack``), on a CPU some rows at a time, in the same memory (``RowProduct``). A ``Product`` has both
for the layers of one codebook; where a codebook has none, or none for the device, ``reference`` does the work: what
``Codebook.decode`` says, in plain torch. That is slow for single tokens, and whoever loads a model asks ``product_of``
first and says so (``inference``).

A product keeps nothing: all it knows it reads from the packed tensors at each call, so a layer takes no more memory
than its file. ``packed_product`` is an operator of torch, opaque to ``torch.compile`` and with a gradient for x.

| ``activations`` | what x is multiplied as                                                                      |
|-----------------|----------------------------------------------------------------------------------------------|
| ``float``       | as it is; equal to ``reference`` up to the order of float32 sums                             |
| ``int8``        | as integers of few bits, each product as it gains most by it; errors of .5 % at most         |
"""

from __future__ import annotations

import ctypes
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook
from quip_engine.linalg.gemm import Gemm
from quip_engine.native import converted, fresh

FEW = 4  # rows of x from which on unpacking pays, unless a product knows better
HEIGHT = 768  # rows of W~ unpacked at once for a GEMM: few enough for a cache, enough for GEMM; measured


@dataclass(frozen=True)
class Packed:
    """The packed W~ of one layer: what a product reads."""

    codebook: Any  # a Codebook of the product's kind
    tensors: dict[str, Tensor]
    m: int
    n: int
    form: str = ""  # from ``form_of``, where it is at hand

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device


class Product(ABC):
    """Products with the layers of one codebook, faster than ``reference``."""

    few: int = FEW  # rows of x up to which ``multiply`` is at least as fast as ``unpack`` and GEMM; measured

    @abstractmethod
    def kernel(self, codebook: Codebook, device: torch.device, activations: str = "float") -> str:
        """In words, what ``multiply`` runs on there (``AVX-512 VBMI``); empty where it cannot."""

    @abstractmethod
    def multiply(self, layer: Packed, x: Tensor, activations: str = "float") -> Tensor:
        """y: (b, m) float32 of x: (b, n) float32, contiguous; any b. Only called where ``kernel`` names one."""

    @abstractmethod
    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        """W~: (m, n) in ``dtype`` (float32 or bfloat16, on a GPU float16, too), of any strides. As ``multiply``."""


class RowProduct(Product):
    """Products on a CPU that unpack any rows by themselves."""

    @abstractmethod
    def unpack_rows(self, layer: Packed, W: Tensor, start: int) -> None:
        """The rows of W~ from ``start`` on into W: (rows, n) float32 or bfloat16, contiguous.

        ``start`` is a multiple of ``together``; so is the number of rows, but for the last ones of the layer.
        """

    def together(self, layer: Packed) -> int:
        """Rows that are unpacked together."""
        return 1

    def unpack(self, layer: Packed, dtype: torch.dtype) -> Tensor:
        W = fresh(layer.m, layer.n, dtype=dtype)
        self.unpack_rows(layer, W, 0)
        return W


def row_zero(W: Tensor, start: int) -> ctypes.c_void_p:
    """For kernels that count all rows of a layer: where its row 0 would lie if ``start`` is the first one of W."""
    return ctypes.c_void_p(W.data_ptr() - start * W.shape[1] * W.itemsize)


P = TypeVar("P", bound=type[Product])
_products: dict[tuple[type[Codebook], str], Product] = {}


def products(*kinds: type[Codebook], device: str = "cpu") -> Callable[[P], P]:
    """Register a product for the layers of these codebooks on one type of device."""

    def add(product: P) -> P:
        _products.update(dict.fromkeys(((kind, device) for kind in kinds), product()))
        return product

    return add


def product_of(codebook: Codebook, device: torch.device, activations: str = "float") -> Product | None:
    """The product for a codebook on a device; None where only ``reference`` is left."""
    product = _products.get((type(codebook), device.type))
    return product if product and product.kernel(codebook, device, activations) else None


def reference(layer: Packed, x: Tensor) -> Tensor:
    """y: (b, m) float32 of x: (b, n) float32, by plain torch: the definition. Differentiable in every float tensor."""
    return x @ layer.codebook.decode(layer.tensors, layer.m, layer.n).T


def packed_product(layer: Packed, x: Tensor, activations: str = "float", dtype: torch.dtype = torch.float32) -> Tensor:
    """y: (b, m) float32 of x: (b, n); ``dtype`` is what products of many rows may be computed in.

    x is float32, or of the dtype that ``rounds_to`` names.
    """
    if not torch.compiler.is_compiling() and not (x.requires_grad and torch.is_grad_enabled()):
        return _computed(layer, x, activations, dtype)  # without the operator, which takes longer than a small layer
    form, names = layer.form or form_of(layer.codebook), sorted(layer.tensors)
    tensors, shape = [layer.tensors[name] for name in names], {"m": layer.m, "n": layer.n}
    return torch.ops.quip.packed_product(x, tensors, form=form, **shape, activations=activations, dtype=dtype)


def rounds_to(layer: Packed, rows: int, activations: str, dtype: torch.dtype) -> torch.dtype:
    """What x: (rows, n) is rounded to by ``packed_product`` with these arguments, outside of autograd and traces."""
    product = product_of(layer.codebook, layer.device, activations)
    return dtype if product and rows > product.few else torch.float32


@torch.library.custom_op("quip::packed_product", mutates_args=())
def _packed_product(
    x: Tensor, tensors: list[Tensor], *, form: str, m: int, n: int, activations: str, dtype: torch.dtype
) -> Tensor:
    return _computed(_layer(tensors, form, m, n), x, activations, dtype)


def _computed(layer: Packed, x: Tensor, activations: str, dtype: torch.dtype) -> Tensor:
    product = product_of(layer.codebook, x.device, activations)
    if product is None:
        return reference(layer, x)
    if len(x) <= product.few:
        return product.multiply(layer, x.contiguous(), activations)
    if isinstance(product, RowProduct):
        return _in_tiles(product, layer, x, dtype)
    return converted(converted(x, dtype) @ product.unpack(layer, dtype).T, torch.float32)


def _in_tiles(product: RowProduct, layer: Packed, x: Tensor, dtype: torch.dtype) -> Tensor:
    """y: (b, m) float32 of x: (b, n) float32; the memory of a tile of W~ stays in the caches."""
    together = product.together(layer)
    height = max(1, HEIGHT // together) * together
    y, tile = fresh(len(x), layer.m, dtype=torch.float32), fresh(min(height, layer.m), layer.n, dtype=dtype)
    gemm = Gemm(x, dtype)
    for start in range(0, layer.m, height):
        W = tile[: layer.m - start]
        product.unpack_rows(layer, W, start)
        gemm.into(y[:, start : start + len(W)], W)
    return y


@_packed_product.register_fake
def _(x: Tensor, tensors: list[Tensor], *, m: int, **_: Any) -> Tensor:
    return x.new_empty(x.shape[0], m)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1])
    ctx.layer = {key: keyword_only_inputs[key] for key in ("form", "m", "n")}


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    layer = _layer(list(ctx.saved_tensors), **ctx.layer)
    product = product_of(layer.codebook, gradient.device)
    W = product.unpack(layer, torch.float32) if product else layer.codebook.decode(layer.tensors, layer.m, layer.n)
    return gradient @ W, [None] * len(layer.tensors)


_packed_product.register_autograd(_backward, setup_context=_setup_context)


_forms: dict[str, Codebook] = {}


def form_of(codebook: Codebook) -> str:
    """A codebook as an argument of the operator, which takes no objects."""
    form = json.dumps(codebook.to_json())
    _forms[form] = codebook
    return form


def _layer(tensors: list[Tensor], form: str, m: int, n: int) -> Packed:
    codebook = _forms[form]
    return Packed(codebook, dict(zip(_names(form, m, n), tensors, strict=True)), m, n, form)


@lru_cache(maxsize=4096)
def _names(form: str, m: int, n: int) -> list[str]:
    return sorted(_forms[form].layout(m, n))
