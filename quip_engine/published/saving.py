"""A model that was read from a published folder can be saved, as a checkpoint of ours.

Without this, ``save_pretrained`` would write packed tensors that nobody can tell from damaged ones.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from quip_engine.checkpoint import quantization_config
from quip_engine.hf import QuipConfig, QuipQuantizer
from quip_engine.layer import LayerFormat
from quip_engine.methods.registry import Recipe
from quip_engine.rounding.ldlq import LDLQ


def describe_quantization(
    model: PreTrainedModel, *, method: str, bits: float, formats: dict[str, LayerFormat], fused: dict[str, list[str]]
) -> None:
    """Attach to a model how its packed layers are stored, as if it had been loaded from a checkpoint of ours."""
    first = next(iter(formats.values()))
    recipe = Recipe(first.transform, first.codebook, LDLQ())  # both methods round with feedback
    record = quantization_config(
        method=method, bits=bits, recipe=recipe, seed=0, layers=formats, skipped={}, fused=fused
    )
    config = QuipConfig(**record)
    model.config.quantization_config = config
    model.hf_quantizer = QuipQuantizer(config)
