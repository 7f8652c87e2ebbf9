"""Incoherence processing as a pair of linear maps around a matrix.

    W = B  W~  A        y = W x = B ( W~ ( A x ) )

``A`` acts on inputs, ``B`` on outputs. Both are orthogonal but for optional diagonal scales, s of the inputs and r of
the outputs:

    A = V diag(1/s)     B = diag(r) U^T     W~ = U diag(1/r) W diag(s) V^T     H~ = A H A^T      (U, V orthogonal)

Without r, tr(E H E^T) is the same in both bases. With it, rows count unequally in the basis of W~; rounding takes them
as equal, which they nearly are once U has mixed them, and a loss is measured in the original basis.

| paper               | here                |
|---------------------|---------------------|
| V, S_V (inputs)     | ``input_rotation``  |
| U, S_U (outputs)    | ``output_rotation`` |
| D~ (rescale)        | ``input_scale``     |
| svh (EXL3, outputs) | ``output_scale``    |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quip_engine.native import converted
from quip_engine.parts import Part, Registry

ROWS = 256  # of H transformed together


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a stored tensor; enough to make room for it before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bits(self) -> int:
        return 8 * math.prod(self.shape) * self.dtype.itemsize


class Rotation(Protocol):
    """An orthogonal map of the last axis. Dimensions are kept; float32 in, float32 out."""

    def forward(self, x: Tensor) -> Tensor: ...

    def transpose(self, x: Tensor) -> Tensor: ...


class Keep:
    """The identity rotation."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    transpose = forward


class Casting(ABC):
    """A rotation that reads any float dtype and writes the one that is asked for, on the way through its float32."""

    @abstractmethod
    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor: ...

    @abstractmethod
    def transpose(self, x: Tensor, dtype: torch.dtype = torch.float32, plus: Tensor | None = None) -> Tensor:
        """With ``plus``: (n,) added to the result."""


@dataclass
class Maps:
    """The maps of one layer, ready to use."""

    input_rotation: Rotation
    output_rotation: Rotation
    input_scale: Tensor | None = None  # s: (n,)
    output_scale: Tensor | None = None  # r: (m,)

    def on_input(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A x in ``dtype`` for x: (..., n) of any; computed in float32."""
        if self.input_scale is None and isinstance(self.input_rotation, Casting):
            return self.input_rotation.forward(x, dtype)
        x = converted(x, torch.float32)
        return converted(self.input_rotation.forward(x if self.input_scale is None else x / self.input_scale), dtype)

    def on_output(self, y: Tensor, dtype: torch.dtype = torch.float32, bias: Tensor | None = None) -> Tensor:
        """B y + bias in ``dtype`` for y: (..., m) float32."""
        if self.output_scale is None and isinstance(self.output_rotation, Casting):
            return self.output_rotation.transpose(y, dtype, bias)
        y = self.output_rotation.transpose(y)
        y = y if self.output_scale is None else y * self.output_scale
        return converted(y if bias is None else y + bias, dtype)

    def on_output_(self, W: Tensor) -> Tensor:
        """B W: (m, n), in the place of W: (m, n)."""
        for columns in W.split(ROWS, 1):
            columns.copy_(self.on_output(columns.T).T)
        return W

    def weight(self, W: Tensor) -> Tensor:
        """W~: (m, n) float32 from W: (m, n) of any float dtype. Held transposed; some rows at a time, W may be wide."""
        m, n = W.shape
        result = torch.empty(n, m, device=W.device)
        for rows, into in zip(W.split(ROWS), result.split(ROWS, 1), strict=True):
            x = rows.float()
            into.copy_(self.input_rotation.forward(x if self.input_scale is None else x * self.input_scale).T)
        for rows in result.split(ROWS):
            x = rows if self.output_scale is None else rows / self.output_scale
            rows.copy_(self.output_rotation.forward(x))
        return result.T

    def hessian(self, H: Tensor) -> Tensor:
        """H~ = A H A^T: (n, n) from a symmetric H: (n, n)."""
        return self.hessian_(H.clone())

    def hessian_(self, H: Tensor) -> Tensor:
        """The same in the place of H."""
        if isinstance(self.input_rotation, Keep) and self.input_scale is None:
            return H
        for rows in H.split(ROWS):
            rows.copy_(self.on_input(rows))
        for columns in H.split(ROWS, 1):
            columns.copy_(self.on_input(columns.T.contiguous()).T)
        return H

    def inverse(self, W: Tensor) -> Tensor:
        """B W~ A: (m, n) from W~: (m, n)."""
        return self.from_input(self.on_output(W.T).T)

    def from_input(self, rows: Tensor) -> Tensor:
        """X A: (r, n) for X: (r, n)."""
        rows = self.input_rotation.transpose(rows)
        return rows if self.input_scale is None else rows / self.input_scale


@dataclass(frozen=True)
class Transform(Part, ABC):
    """Incoherence processing: how W and H are made incoherent, and how activations follow at run time.

    The input side is drawn from ``input_seed``: layers that share an input (q, k, v) get the same seed and so the
    same input rotation. Stored tensors carry everything a loaded layer needs.
    """

    @abstractmethod
    def fit(
        self, W: Tensor, H: Tensor, *, input_seed: int, output_seed: int, importance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Draw rotations and measure scales for W: (m, n), H: (n, n). Returns the tensors of ``layout``.

        ``importance``: (m,), what a squared error of each output costs, where that is known.
        """

    @abstractmethod
    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        """The tensors this transform stores for an m x n layer, by name."""

    @abstractmethod
    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        """The maps of a layer from its stored tensors."""

    def notes(self, m: int, n: int) -> list[str]:
        """Fallbacks this transform takes for an m x n layer, each a sentence for the result."""
        return []


transforms: Registry[Transform] = Registry("transform")
