"""What of a packed model can be trained without changing a code: numbers that are stored as floats.

    W^ = diag(u / u_0) W^_0 diag(v / v_0)

While codes stay, a packed layer is a dense one: W^_0 is decoded once, in the basis of the activations, so neither
codes nor rotations cost anything in a step. What a layer stores as floats acts on it as a scale of its outputs (that of
the whole matrix, too) or of its inputs; a codebook that stores more than one number (steps of rows, levels) is decoded
anew from them in each step. Norms, biases, embeddings and the head take part as they are: they are stored in the
model's own type anyway, so to train them costs no bits.

| symbol  | here                                                                                     |
|---------|------------------------------------------------------------------------------------------|
| W^_0    | ``TunedLinear.dense``: (m, n), of the codes and floats as they came                      |
| u, v    | scales of outputs and of inputs: floats of the transform, and the scale of a codebook    |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from quip_engine.linear import QuantizedLinear

# The side that a single float of a layer acts on, and the power with which it multiplies there.
OUTPUT = ("output", 1)
ACTS = {"input_vector": ("input", 1), "input_scale": ("input", -1), "output_vector": OUTPUT, "output_scale": OUTPUT}
SMALLEST = 1e-3  # rms of a master that its learning rate is relative to, at least: biases may be zero


class TunedLinear(nn.Module):
    """A packed layer whose stored floats are parameters, float32, by the names they are stored under."""

    bias: nn.Parameter | None

    def __init__(self, packed: QuantizedLinear) -> None:
        super().__init__()
        self.source = [packed]  # not a child: what it stores must not be met twice
        self.dense = packed.dequantize().detach()
        stored = {name: tensor.detach() for name, tensor in packed.tensors().items() if _trainable(tensor)}
        floats = {name: tensor.to(torch.float32, copy=True) for name, tensor in stored.items()}
        mapped = packed.format.transform.layout(packed.out_features, packed.in_features)
        numbers = [name for name in floats if name not in mapped]
        self.decoded = numbers if any(floats[name].numel() > 1 for name in numbers) else []
        self.initial = {name: tensor.clone() for name, tensor in floats.items() if name not in self.decoded}
        for name, tensor in floats.items():
            self.register_parameter(name, nn.Parameter(tensor))
        self.register_parameter("bias", packed.bias)

    def forward(self, x: Tensor) -> Tensor:
        """y: (..., m) of x: (..., n)."""
        y = self._scaled(linear(self._scaled(x, "input"), self._matrix()), "output")
        return y if self.bias is None else y + self.bias

    def settled(self) -> QuantizedLinear:
        """The packed layer with its floats as they are now, in the types they are stored in."""
        packed = self.source[0]
        with torch.no_grad():
            for name, tensor in packed.tensors().items():
                if name in self._parameters:
                    tensor.copy_(self.get_parameter(name))
        return packed

    def _scaled(self, x: Tensor, side: str) -> Tensor:
        for name, initial in self.initial.items():
            acts, power = ACTS.get(name, OUTPUT)
            if acts == side:
                x = x * (getattr(self, name) / initial) ** power
        return x

    def _matrix(self) -> Tensor:
        """W^_0, or what the floats that are decoded make of it now."""
        if not self.decoded:
            return self.dense
        packed = self.source[0].packed()
        floats = {name: getattr(self, name) for name in self.decoded}
        return self.source[0].maps().inverse(packed.codebook.decode({**packed.tensors, **floats}, packed.m, packed.n))


def _trainable(tensor: Tensor) -> bool:
    """A float; not the scale of a matrix of zeros, which no factor changes."""
    return tensor.is_floating_point() and (tensor.numel() > 1 or bool(tensor.all()))


def tune_linears(model: nn.Module) -> None:
    """Put a ``TunedLinear`` in the place of every packed layer of a model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            model.set_submodule(name, TunedLinear(module))


class Masters:
    """The parameters of a model that are trained, and the types they are stored in."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, left_out: Collection[int] = ()) -> None:
        """``dtype``: of what is not packed. ``left_out``: ids of parameters that stay as they are."""
        self.dtypes: dict[str, torch.dtype] = {}
        self.tensors: dict[str, Tensor] = {}
        packed = {
            f"{path}.{name}": tensor.dtype
            for path, module in model.named_modules()
            if isinstance(module, TunedLinear)
            for name, tensor in module.source[0].tensors().items()
        }
        for name, parameter in model.named_parameters():
            trained = parameter.is_floating_point() and id(parameter) not in left_out
            parameter.requires_grad_(trained)
            if trained:
                self.tensors[name], self.dtypes[name] = parameter, packed.get(name, dtype)

    def rates(self, rate: float) -> dict[str, float]:
        """Learning rates: a step moves each number by about ``rate`` of the rms of its tensor."""
        return {
            name: rate * max(float(p.detach().square().mean().sqrt()), SMALLEST) for name, p in self.tensors.items()
        }

    def rounded(self) -> dict[str, Tensor]:
        """What would be stored, by name."""
        return {name: p.detach().to(self.dtypes[name]) for name, p in self.tensors.items()}

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """The model computes with what would be stored."""
        exact = {name: p.data for name, p in self.tensors.items()}
        try:
            for name, tensor in self.rounded().items():
                self.tensors[name].data = tensor.float()
            yield
        finally:
            for name, data in exact.items():
                self.tensors[name].data = data
