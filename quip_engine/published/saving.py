"""A model that was read from a published folder can be saved as a checkpoint of ours, or says why it cannot.

Without this, ``save_pretrained`` would write packed tensors that nobody can tell from damaged ones.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from quip_engine.checkpoint import quantization_config
from quip_engine.errors import fail
from quip_engine.hf import QuipConfig, QuipQuantizer
from quip_engine.layer import LayerFormat
from quip_engine.methods.registry import Recipe
from quip_engine.rounding.ldlq import LDLQ


class FusedQuantizer(QuipQuantizer):
    """Of a model with fused layers: our checkpoints hold one linear layer under each name."""

    def is_serializable(self) -> bool:
        fail("BAD_CHECKPOINT", path="The model", reason="its fused layers cannot be saved; copy the published folder")


def describe_quantization(
    model: PreTrainedModel, *, method: str, bits: float, formats: dict[str, LayerFormat], fused: bool
) -> None:
    """Attach to a model how its packed layers are stored, as if it had been loaded from a checkpoint of ours."""
    first = next(iter(formats.values()))
    recipe = Recipe(first.transform, first.codebook, LDLQ())  # both methods round with feedback
    record = quantization_config(method=method, bits=bits, recipe=recipe, seed=0, layers=formats, skipped={})
    config = QuipConfig(**record)
    model.config.quantization_config = config
    model.hf_quantizer = (FusedQuantizer if fused else QuipQuantizer)(config)
