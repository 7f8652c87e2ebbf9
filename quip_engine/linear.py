"""A linear layer that keeps its weight as packed codes.

    y = W^ x + b = B ( W~^ ( A x ) ) + b        W~^ = decode(codes);  A, B: the maps of the transform

Activations take the transform's basis, so W^ itself is never formed, and W~^ only where that is the faster way
(``products``). Where a device has no kernels, ``unpack_`` trades memory for time.

Stored tensors are Parameters without gradient, integer codes too: loading, counting, disk offload and device moves
treat them as the weights they are (offloading leaves buffers behind, and buffers that are not stored hold garbage after
loading). What is derived from them is built at first use and dropped whenever they change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quip_engine.config import ACTIVATIONS
from quip_engine.layer import LayerFormat, QuantizedWeight
from quip_engine.products import Packed, form_of, packed_product, product_of, reference, rounds_to
from quip_engine.transforms import Maps


class QuantizedLinear(nn.Module):
    """y = W^ x + b for W^: (out_features, in_features) stored in ``format``.

    Made with uninitialized tensors on ``device`` (meta works); ``from_quantized`` or a state dict fills them.
    ``dtype`` is that of the bias alone: stored tensors keep the dtypes of the format, whatever the model is cast to.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        format: LayerFormat,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.format = in_features, out_features, format
        for name, spec in format.layout(out_features, in_features).items():
            self._store(name, torch.empty(spec.shape, dtype=spec.dtype, device=device))
        if bias:
            self._store("bias", torch.empty(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.activations = ACTIVATIONS[0]  # what single tokens are multiplied as
        self._form = form_of(format.codebook)
        self._mapped = list(format.transform.layout(out_features, in_features))
        self._coded = [name for name in self.tensors() if name not in self._mapped]
        self._shared: SharedInput | None = None
        self._built: tuple[object, Maps] | None = None
        self._dense: tuple[object, Tensor] | None = None

    @classmethod
    def from_quantized(cls, q: QuantizedWeight, bias: Tensor | None = None) -> QuantizedLinear:
        """The layer of a quantized weight, on its device, with the bias: (m,) of the original."""
        m, n = q.shape
        layer = cls(n, m, bias is not None, q.format, device="meta")
        for name in q.format.layout(m, n):
            layer._store(name, q.tensors[name])
        if bias is not None:
            layer._store("bias", bias.detach())
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """y: (..., out_features) in the dtype of x: (..., in_features).

        Maps are float32; the product, too, or for many rows in the dtype of x (not float16 on a CPU, which is slow).
        """
        maps, dtype = self.maps(), self._rounds_to(x)
        z = self._shared.mapped(x, maps, dtype) if self._shared else maps.on_input(x, dtype)
        y = self._product(z.flatten(0, -2), x.dtype).unflatten(0, x.shape[:-1])
        return maps.on_output(y, x.dtype, self.bias)

    def _rounds_to(self, x: Tensor) -> torch.dtype:
        """The dtype that A x may have: that of x where the product would round to it anyway, else float32."""
        if x.dtype != torch.bfloat16 or x.numel() == self.in_features or torch.compiler.is_compiling():
            return torch.float32
        trained = torch.is_grad_enabled() and (x.requires_grad or any(t.requires_grad for t in self.tensors().values()))
        if trained or self._dense is not None:
            return torch.float32
        return rounds_to(self.packed(), x.numel() // self.in_features, self.activations, x.dtype)

    def _product(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """z W~^T: (b, m) float32 for z: (b, n)."""
        packed = self.packed()
        if self._dense is not None:
            content, W = self._dense
            if torch.compiler.is_compiling() or content == [_content(tensor) for tensor in packed.tensors.values()]:
                return (z.to(W.dtype) @ W.T).float()
            self._dense = None  # codes were replaced
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in packed.tensors.values()):
            return reference(packed, z)
        slow = z.device.type == "cpu" and dtype == torch.float16
        return packed_product(packed, z, self.activations, torch.float32 if slow else dtype)

    def packed(self) -> Packed:
        """The tensors of the codebook, for a product."""
        tensors = {name: getattr(self, name) for name in self._coded}
        return Packed(self.format.codebook, tensors, self.out_features, self.in_features, self._form)

    @property
    def unpacked_bytes(self) -> int:
        """Of memory that ``unpack_`` took."""
        return self._dense[1].nbytes if self._dense else 0

    def kernel(self) -> str:
        """What products of single tokens run on, in words; empty for plain torch."""
        packed = self.packed()
        product = product_of(packed.codebook, packed.device, self.activations)
        return product.kernel(packed.codebook, packed.device, self.activations) if product else ""

    def unpack_(self, dtype: torch.dtype) -> None:
        """Keep W~^ in memory, in ``dtype``, beside the codes: for devices without kernels. Moves and casts drop it."""
        packed = self.packed()
        with torch.inference_mode(False), torch.no_grad():
            W = packed.codebook.decode(packed.tensors, packed.m, packed.n).to(dtype)
        self._dense = [_content(tensor) for tensor in packed.tensors.values()], W

    def dequantize(self) -> Tensor:
        """W^: (out_features, in_features) float32."""
        return self.maps().inverse(self._decoded())

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors of the format by name; not the bias."""
        return {name: tensor for name, tensor in self.named_parameters(recurse=False) if name != "bias"}

    def maps(self) -> Maps:
        """The maps of the stored tensors as they are now, built once per device and content.

        A trace takes those that are built, since contents cannot be seen in one.
        """
        if self._built is not None and torch.compiler.is_compiling():
            return self._built[1]
        tensors = {name: getattr(self, name) for name in self._mapped}
        content = [_content(tensor) for tensor in tensors.values()]
        if self._built is None or self._built[0] != content:
            with torch.inference_mode(False):  # what is kept must also serve training
                self._built = content, self.format.maps(tensors, self.out_features, self.in_features)
        return self._built[1]

    def input_map(self) -> tuple[object, ...]:
        """What decides the map of inputs, to compare layers by; empty where it is the identity."""
        named = {name: getattr(self, name) for name in self._mapped if name.startswith("input")}
        if not named or any(tensor.is_meta for tensor in named.values()):
            return ()
        bits = tuple(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes() for tensor in named.values())
        return self.in_features, self.format.transform, bits

    def extra_repr(self) -> str:
        parts = f"transform={self.format.transform.name}, codebook={self.format.codebook.name}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {parts}"
        )

    def _decoded(self) -> Tensor:
        packed = self.packed()
        return packed.codebook.decode(packed.tensors, packed.m, packed.n)

    def _store(self, name: str, tensor: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Follow device moves, but let a cast (``.half()``, ``.to(bfloat16)``) reach the bias only."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if tensor is self.bias or result.dtype == tensor.dtype else tensor.to(result.device)

        self._built = self._dense = None
        return super()._apply(keep_dtype, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles build their own maps."""
        return {**super().__getstate__(), "_built": None, "_dense": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._form = form_of(self.format.codebook)  # made known to this process


class SharedInput:
    """A x for layers that read the same x and map it alike (q, k, v; gate, up): computed by the first that asks.

    x is known by being the same tensor, unchanged. It is not kept longer than until all ``layers`` have asked.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._last: tuple[Tensor, int, dict[torch.dtype, Tensor]] | None = None
        self._asked = 0

    def mapped(self, x: Tensor, maps: Maps, dtype: torch.dtype) -> Tensor:
        """A x: (..., n) in ``dtype`` of x: (..., n)."""
        if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
            return maps.on_input(x, dtype)
        last = self._last
        if last is None or last[0] is not x or last[1] != _version(x):
            last = self._last = x, _version(x), {}
            self._asked = 0
        made = last[2]
        if dtype not in made:
            made[dtype] = maps.on_input(x, dtype)
        self._asked += 1
        if self._asked >= self._layers:
            self._last = None
        return made[dtype]

    def __getstate__(self) -> dict[str, Any]:
        return {"_layers": self._layers, "_last": None, "_asked": 0}


def share_inputs(model: nn.Module) -> None:
    """Let packed layers that are children of one module, with the same map of their inputs, compute it once."""
    for parent in model.modules():
        alike: dict[object, list[QuantizedLinear]] = {}
        for child in parent.children():
            if isinstance(child, QuantizedLinear) and (key := child.input_map()):
                alike.setdefault(key, []).append(child)
        for layers in alike.values():
            shared = SharedInput(len(layers)) if len(layers) > 1 else None
            for layer in layers:
                layer._shared = shared


def _content(tensor: Tensor) -> tuple[torch.device, int, int]:
    """What changes when a tensor is moved, replaced or written to (writes to inference tensors go unseen)."""
    return tensor.device, tensor.data_ptr(), _version(tensor)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
