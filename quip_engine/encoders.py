"""Encoders: models that give a text one vector instead of a continuation.

    e = mean_t h_t / | mean_t h_t |        h_t: last hidden state at token t, special tokens included

The mean over tokens is how sentence encoders are trained and compared; for unit vectors the inner product of two is
the cosine of their angle. One text at a time: nothing is padded, so a mask cannot be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def leave_out_pooler(model: nn.Module, stored: Iterable[str]) -> None:
    """Do without a pooler where the files (with tensors named ``stored``) have none: it would be drawn at random."""
    if isinstance(getattr(model, "pooler", None), nn.Module) and not any("pooler." in name for name in stored):
        model.register_module("pooler", None)


def framed(tokens: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Windows (samples, length) that begin and end as every text an encoder reads: with [CLS] and [SEP]."""
    result = tokens.clone()
    for place, token in ((0, tokenizer.cls_token_id), (-1, tokenizer.sep_token_id)):
        if token is not None:
            result[:, place] = token
    return result


@torch.no_grad()
def embed(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Unit vectors (texts, width) in float32 on the CPU, for texts as token ids, each within the context."""
    vectors = []
    for ids in texts:
        states = model(input_ids=torch.tensor([ids], device=model.device)).last_hidden_state[0]
        vectors.append(states.float().mean(0))
    return nn.functional.normalize(torch.stack(vectors), dim=-1).cpu()
