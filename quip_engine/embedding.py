"""Embeddings and heads in few bits: a row of evenly spaced levels for each token, a step for each GROUP columns.

    W_ij = step_ik (code_ij - (2^bits - 1) / 2)        column j of group k;  y = W x for a head, row i for token i

Symmetric grids rounded to nearest: at 4 bits and more no Hessian is needed, and every token is as good as any other,
seen in calibration or not. A head that is tied to the embedding stays so: the same codes are looked up and multiplied.

| tensor | shape, type                                                                                    |
|--------|------------------------------------------------------------------------------------------------|
| codes  | (tokens, packed width), uint8                                                                  |
| step   | (tokens, groups), int16: the 16 bits of a float16, which no cast of a model changes            |
| scale  | (1,), the type of the model: what rows are multiplied by (Gemma), and the type they come in    |

``transformers`` takes the first floating tensor of a model for its type, so ``scale`` has another use. A head has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quip_engine.codebooks.grid import RowGrid
from quip_engine.layer import LayerFormat
from quip_engine.linalg.hessian import ROWS
from quip_engine.linear import QuantizedLinear
from quip_engine.products import Packed
from quip_engine.transforms.base import TensorSpec
from quip_engine.transforms.none import Identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP = 64


def embedding_format(bits: int) -> LayerFormat:
    """How embeddings and heads of so many bits are stored."""
    return LayerFormat(Identity(), RowGrid(bits=bits, group=GROUP, clip="nearest", symmetric=True))


def outer_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The embedding of tokens and the head of a model by path: what ``--embeddings`` packs. BERT has no head."""
    wanted = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {name: module for name, module in model.named_modules() if any(module is one for one in wanted)}


def pack_outer(model: PreTrainedModel, forms: Mapping[str, LayerFormat], dtype: torch.dtype | None = None) -> None:
    """Put empty packed modules where a model has embedding and head, in place, on meta. Raises ``KeyError``.

    A head that was tied to the embedding is tied to the packed one.
    """
    modules = outer_modules(model)
    for path, form in forms.items():
        model.set_submodule(path, _packed_module(modules[path], form, dtype))
    tied = dict(getattr(model, "all_tied_weights_keys", {}))
    for head, embedding in tied.copy().items():
        target, source = head.removesuffix(".weight"), embedding.removesuffix(".weight")
        if target in forms or source in forms:
            del tied[head]
        if target in forms and source in forms:
            names = forms[target].layout(*shape_of(modules[target]))
            tied |= {f"{target}.{name}": f"{source}.{name}" for name in names}
    model._tied_weights_keys = model.all_tied_weights_keys = tied


def _packed_module(module: nn.Module, form: LayerFormat, dtype: torch.dtype | None) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(module.num_embeddings, module.embedding_dim, form, device="meta", dtype=dtype)
    assert isinstance(module, nn.Linear)
    return QuantizedHead(
        module.in_features, module.out_features, module.bias is not None, form, device="meta", dtype=dtype
    )


def round_outer_(model: PreTrainedModel, form: LayerFormat) -> None:
    """Give embedding and head, in place, the values that they will have when they are packed."""
    weights = [module.weight for module in outer_modules(model).values()]
    for weight in {id(weight): weight for weight in weights}.values():  # once if tied
        assert isinstance(weight, nn.Parameter)
        weight.data = decoded(packed_rows(weight.data, form), form, weight.shape[1]).to(weight.dtype)


def stored_outer(module: nn.Module, form: LayerFormat, dtype: torch.dtype) -> dict[str, TensorSpec]:
    """The tensors that an embedding or a head of a model of ``dtype`` will have in the files."""
    specs = form.layout(*shape_of(module)).items()
    found = {name: TensorSpec(s.shape, torch.int16) if s.dtype == torch.float16 else s for name, s in specs}
    return found | ({"scale": TensorSpec((1,), dtype)} if isinstance(module, nn.Embedding) else {})


def packed_outer(module: nn.Module, form: LayerFormat, dtype: torch.dtype) -> dict[str, Tensor]:
    """These tensors, on the CPU."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    tensors = {name: tensor.cpu() for name, tensor in packed_rows(weight.detach(), form).items()}
    scale = torch.tensor([getattr(module, "scalar_embed_scale", 1.0)], dtype=dtype)
    return tensors | ({"scale": scale} if isinstance(module, nn.Embedding) else {})


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(tokens, width) of an embedding or a head."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    m, n = weight.shape
    return m, n


def embeddings_record(modules: Mapping[str, nn.Module], form: LayerFormat) -> dict[str, Any]:
    """For people: which modules are packed, in how many bits, every stored one counted."""
    m, n = shape_of(next(iter(modules.values())))
    bits = sum(spec.bits for spec in form.layout(m, n).values()) / (m * n)
    return {"bits": form.codebook.code_bits, "bits_per_weight": bits, "modules": list(modules)}


def packed_rows(W: Tensor, form: LayerFormat) -> dict[str, Tensor]:
    """The stored tensors of W: (tokens, width), some rows at a time."""
    parts = [_packed(rows.float(), form.codebook) for rows in W.split(ROWS)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _packed(W: Tensor, codebook: Any) -> dict[str, Tensor]:
    n = W.shape[1]
    quantizer = codebook.fit(W, torch.eye(n, device=W.device))
    codes = [quantizer.round(W[:, column : column + 1], column)[1] for column in range(n)]
    return {name: as_integers(tensor) for name, tensor in quantizer.pack(codes).items()}


def as_integers(tensor: Tensor) -> Tensor:
    """The bits of a float16, anything else as it is."""
    return tensor.view(torch.int16) if tensor.dtype == torch.float16 else tensor


def as_floats(tensor: Tensor) -> Tensor:
    return tensor.view(torch.float16) if tensor.dtype == torch.int16 else tensor


def decoded(tensors: dict[str, Tensor], form: LayerFormat, n: int) -> Tensor:
    """W: (rows, n) float32 from the stored tensors of these rows."""
    floats = {name: as_floats(tensor) for name, tensor in tensors.items()}
    return form.codebook.decode(floats, len(floats["codes"]), n)


class QuantizedEmbedding(nn.Module):
    """Rows of W: (num_embeddings, embedding_dim) by token, times ``scale``, in the type of ``scale``."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        format: LayerFormat,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.format = num_embeddings, embedding_dim, format
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype), requires_grad=False)  # comes first
        for name, spec in format.layout(num_embeddings, embedding_dim).items():
            tensor = as_integers(torch.empty(spec.shape, dtype=spec.dtype, device=device))
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, ids: Tensor) -> Tensor:
        """(..., embedding_dim) of ids: (...)."""
        tensors = {name: tensor[ids.flatten()] for name, tensor in self.tensors().items()}
        rows = decoded(tensors, self.format, self.embedding_dim).to(self.scale.dtype)
        return (rows * self.scale).view(*ids.shape, -1)

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors of the format by name."""
        return {name: tensor for name, tensor in self.named_parameters(recurse=False) if name != "scale"}

    @property
    def bits_per_weight(self) -> float:
        """Every stored bit."""
        return sum(8 * t.nbytes for t in self.tensors().values()) / (self.num_embeddings * self.embedding_dim)

    def dequantize(self) -> Tensor:
        """W: (num_embeddings, embedding_dim) float32."""
        return decoded(self.tensors(), self.format, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, codebook={self.format.codebook.described()}"


class QuantizedHead(QuantizedLinear):
    """A head that is stored like an embedding."""

    def packed(self) -> Packed:
        packed = super().packed()
        return replace(packed, tensors={name: as_floats(tensor) for name, tensor in packed.tensors.items()})

    def _store(self, name: str, tensor: Tensor) -> None:
        super()._store(name, tensor if name == "bias" else as_integers(tensor))
