r"""How much memory a model takes while it answers, from its files alone.

    bytes = WORK weights + 2 L H d T s      (keys and values of L blocks, H heads of d numbers, T tokens, s bytes each)

and the program, where it is not running yet. Packed layers are counted as they lie on disk; what unpacking takes where
there is no kernel for them comes on top.
"""

from __future__ import annotations

import math
from pathlib import Path

from transformers import AutoConfig

from quip_engine.errors import fail
from quip_engine.estimate import PROCESS
from quip_engine.probe.folder import weight_files
from quip_engine.probe.settings import check_use, read_config

WORK = 1.1  # of the weights: what single steps need beside them
PROGRAM = round(PROCESS)  # bytes


def answering_bytes(folder: Path, tokens: int, *, loaded: bool = False) -> int:
    """Bytes that answering with so many tokens in all takes; ``loaded``: beyond the weights.

    Raises the coded errors of a folder without a readable config.json or weights.
    """
    weights = 0 if loaded else round(WORK * sum(file.stat().st_size for file in weight_files(folder)))
    return weights + cache_bytes(folder, tokens)


def memory_with(folder: Path, weights: int, tokens: int) -> int:
    """Bytes that a program takes which answers with so many tokens and a model like that of ``folder``.

    ``weights``: bytes of its weight files.
    """
    return PROGRAM + round(WORK * weights) + cache_bytes(folder, tokens)


def weights_within(folder: Path, memory: int, tokens: int) -> int:
    """The reverse of ``memory_with``: what weights may take; negative where nothing is left for them."""
    return math.floor((memory - PROGRAM - cache_bytes(folder, tokens)) / WORK)


def cache_bytes(folder: Path, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens, or of as many as the model can take."""
    check_use(read_config(folder), encoder=False)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, TypeError, LookupError) as error:
        fail("LOAD_FAILED", path=folder, reason=str(error).partition("\n")[0][:200])
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = min(tokens, getattr(config, "max_position_embeddings", None) or tokens)
    itemsize = config.dtype.itemsize if config.dtype is not None else 4
    return 2 * config.num_hidden_layers * heads * width * longest * itemsize
