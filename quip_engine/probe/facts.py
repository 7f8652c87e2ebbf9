"""What is known of a model folder after ``probe``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class LinearLayer(NamedTuple):
    """A linear layer inside a decoder block; fields as in ``events.LayerName``."""

    name: str
    block: int
    projection: str
    shape: tuple[int, int]  # (outputs, inputs)


@dataclass(frozen=True)
class ModelFacts:
    """A checked model folder. Sizes are bytes, dtypes are named as torch names them."""

    path: str  # the folder on this disk
    name: str  # hub id, or name of the folder
    architecture: str  # LlamaForCausalLM
    model_type: str  # llama
    parameters: int  # a tied head counts once
    blocks: int
    hidden: int
    vocabulary: int  # rows of the embedding
    context: int  # longest sequence in tokens
    dtype: str  # of most bytes
    bytes: int  # of all weight files
    tensors: int  # in the weight files, as far as they belong to the model
    unquantized_bytes: int  # of the tensors that stay as they are: all but the weights of ``linear_layers``
    licence: str | None
    tied: bool  # head and embedding are one tensor
    routed: float  # share of the tokens that reach one of the experts, on average; 1 without experts
    chat_template: bool
    linear_layers: list[LinearLayer]  # inside the decoder blocks, in order
    warnings: list[tuple[str, str]]  # (code, message)

    @property
    def weights(self) -> int:
        """Of all linear layers in the blocks."""
        return sum(math.prod(layer.shape) for layer in self.linear_layers)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
