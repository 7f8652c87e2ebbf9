"""Facts of a model that is not on this disk, from its config.json alone: for estimates before a download.

The model is built on meta, so parameters and shapes are those of the architecture and no figure is taken on trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from quip_engine.architecture import decoder_blocks, linear_layers
from quip_engine.probe.facts import ModelFacts
from quip_engine.probe.names import build_checked
from quip_engine.probe.settings import architecture_of

NO_FOLDER = "/nowhere"  # its tokenizer is not counted


def planned_facts(name: str, config: Mapping[str, Any], *, stored_head: bool = False) -> ModelFacts:
    """Facts of the model ``name`` with this config.json in its ``dtype``.

    ``stored_head``: the files hold a head that is tied to the embedding, too. Raises ``BAD_CONFIG_VALUE``.
    """
    model = build_checked(dict(config))
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items() if key not in tied}
    layers = linear_layers(*decoder_blocks(model))
    inside = {f"{layer.name}.weight" for layer in layers}
    dtype = str(config.get("dtype", config.get("torch_dtype", "bfloat16")))
    size = getattr(torch, dtype).itemsize
    parameters = sum(shape.numel() for shape in shapes.values())
    head = model.get_input_embeddings().weight.numel() if tied and stored_head else 0
    return ModelFacts(
        path=NO_FOLDER,
        name=name,
        architecture=architecture_of(dict(config)),
        model_type=config["model_type"],
        parameters=parameters,
        blocks=model.config.num_hidden_layers,
        hidden=model.config.hidden_size,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        context=model.config.max_position_embeddings,
        dtype=dtype,
        bytes=(parameters + head) * size,
        tensors=len(shapes),
        unquantized_bytes=sum(shape.numel() for key, shape in shapes.items() if key not in inside) * size,
        licence=None,
        tied=bool(tied),
        routed=1.0,
        chat_template=False,
        linear_layers=layers,
        warnings=[],
    )
