"""Linear layers of one input that are packed as one matrix, so that no part of it can be had alone.

    [y_1, .., y_p] = split( B ( W~ ( A x ) ) )        B = diag(u) V_m mixes the rows of all parts

The model calls its parts one by one (q, k, v; gate, up). The first call computes the product of all; the others are
handed their rows of it. A result is kept with its input and with the state of the weights, is given out once, and is
forgotten when all of it is given out: whatever the order of calls, each part sees its own input. Nothing is shared
where gradients are asked for, for a backward pass through one part would free what the others still need, nor in a
compiled graph, which has no memory between calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quip_engine.linear import QuantizedLinear

State = tuple[int, int]


@dataclass
class Result:
    """What waits to be handed out."""

    x: Tensor
    state: list[State]  # of x and of the weights
    parts: dict[int, Tensor]


class FusedProduct:
    """The product that several layers share. No module: its ``linear`` is in the model under the name of the files."""

    def __init__(self, linear: QuantizedLinear, rows: Sequence[int]) -> None:
        self.linear, self.rows = linear, list(rows)
        self._result: Result | None = None

    def part(self, index: int, x: Tensor) -> Tensor:
        """Rows of part ``index``: (..., rows[index]) of the product with x: (..., n)."""
        tensors = [x, *self.linear.parameters()]
        trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if trained or torch.compiler.is_compiling():
            return self.linear(x).split(self.rows, -1)[index]
        result, state = self._result, [_state(tensor) for tensor in tensors]
        if result is None or result.x is not x or result.state != state or index not in result.parts:
            result = Result(x, state, dict(enumerate(self.linear(x).split(self.rows, -1))))
        y = result.parts.pop(index)
        self._result = result if result.parts else None
        return y

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles start with nothing kept."""
        return {**self.__dict__, "_result": None}


class FusedPart(nn.Module):
    """One of the layers that share a product: y = W^ x for its rows W^: (out_features, in_features)."""

    def __init__(self, product: FusedProduct, index: int) -> None:
        super().__init__()
        self.product, self.index = product, index
        self.in_features, self.out_features = product.linear.in_features, product.rows[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.product.part(self.index, x)

    def dequantize(self) -> Tensor:
        """W^: (out_features, in_features) float32."""
        return self.product.linear.dequantize().split(self.product.rows)[self.index]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, part={self.index}"


def place_fused(model: nn.Module, name: str, linear: QuantizedLinear, rows: dict[str, int]) -> None:
    """Put the packed ``linear`` into the model at ``name``, and at each path of ``rows`` its part of so many rows."""
    product = FusedProduct(linear, list(rows.values()))
    model.set_submodule(name, linear)
    for index, path in enumerate(rows):
        model.set_submodule(path, FusedPart(product, index))


def _state(tensor: Tensor) -> State:
    """What changes when a tensor is written to or replaced (writes to inference tensors go unseen)."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
