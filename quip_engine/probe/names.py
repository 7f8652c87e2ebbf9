"""Do the weight files hold exactly the tensors of the architecture that config.json describes?

The model is built on the meta device from the checked config; its names and shapes are compared with the headers.
A file may leave out or add the prefix of the base model (``h.0.`` for ``transformer.h.0.``) or use older names that
``transformers`` knows, a tied head may be absent, and buffers that are computed anyway may be there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import apply_renamings
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quip_engine.architecture import build_on_meta, decoder_blocks, linear_layers
from quip_engine.errors import fail
from quip_engine.experts import expert_modules, unfused_names
from quip_engine.probe.facts import LinearLayer
from quip_engine.probe.headers import TensorInfo
from quip_engine.probe.settings import expert_key

FLOATS = ("float32", "bfloat16", "float16", "float64")
# Buffers of older files: rotary frequencies, causal masks, positions.
HARMLESS = re.compile(r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
BLOCK = re.compile(r"(?:^|\.)(?:layers|layer|h)\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")
FUSED = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")  # all experts of a block in one tensor


@dataclass(frozen=True)
class WeightFacts:
    parameters: int
    hidden: int
    vocabulary: int
    context: int
    dtype: str
    tensors: int
    unquantized_bytes: int
    tied: bool
    routed: float
    linear_layers: list[LinearLayer]
    warnings: list[tuple[str, str]]


def check_weights(config: dict[str, Any], files: dict[str, TensorInfo]) -> WeightFacts:
    """Compare headers with the architecture; raises the first difference that would change the model."""
    blocks = config.get("num_hidden_layers", config.get("n_layer"))
    _check_count(BLOCK, "blocks", blocks, files)
    _check_count(EXPERT, "experts", config.get(expert_key(config)), files)
    model = build_checked(config, stored=files)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    head = _tied_head(model)
    stored, extra = _by_model_name(files, expected, model)
    if fused := [name for name in extra if FUSED.search(name)]:
        fail("WRONG_FORMAT", path=files[fused[0]].file.parent, format="fused expert")
    _check_complete(stored, expected, head)
    for name, tensor in stored.items():
        if tensor.shape != expected[name]:
            fail("SHAPE_MISMATCH", name=name, expected=list(expected[name]), found=list(tensor.shape))
        if tensor.dtype not in FLOATS:
            fail("DTYPE_UNSUPPORTED", name=name, dtype=tensor.dtype)
    separate = head is not None and not _same(stored, *head)
    layers = linear_layers(*decoder_blocks(model))
    left_out = {head[0]} if head and not separate else set()
    kept = stored.keys() - left_out - {f"{layer.name}.weight" for layer in layers}
    sizes: Counter[str] = Counter()
    for tensor in stored.values():
        sizes[tensor.dtype] += tensor.bytes
    return WeightFacts(
        parameters=sum(torch.Size(shape).numel() for name, shape in expected.items() if name not in left_out),
        hidden=model.config.hidden_size,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        context=model.config.max_position_embeddings,
        dtype=sizes.most_common(1)[0][0],
        tensors=len(stored.keys() - left_out),
        unquantized_bytes=sum(stored[name].bytes for name in kept),
        tied=head is not None and not separate,
        routed=_routed(model),
        linear_layers=layers,
        warnings=_warnings(separate, extra),
    )


def _check_count(pattern: re.Pattern[str], what: str, expected: int | None, files: dict[str, TensorInfo]) -> None:
    """Compare the numbers of blocks or experts before anything is built: a wrong one is usual, and can be huge."""
    numbers = {name: int(match[1]) for name in files if (match := pattern.search(name))}
    found = 1 + max(numbers.values(), default=-1)
    if expected is None or found == 0:
        return
    if found > expected:
        fail("TENSOR_EXTRA", expected=expected, found=found, what=what)
    last = [name for name, number in numbers.items() if number == found - 1]
    if found < expected:
        missing = pattern.sub(lambda match: match[0].replace(match[1], str(found)), last[0])
        fail("TENSOR_MISSING", name=missing, count=(expected - found) * len(last))


def build_checked(
    config: dict[str, Any], dtype: torch.dtype = torch.float32, stored: Iterable[str] = ()
) -> PreTrainedModel:
    """``build_on_meta`` of a checked config.json; what transformers refuses of it has a code."""
    for rope in _position_encodings(config):
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
            fail("ROPE_UNSUPPORTED", value=kind[:80])
    try:
        model = build_on_meta(CONFIG_MAPPING[config["model_type"]].from_dict(config), dtype, stored)
        if not all(torch.isfinite(buffer).all() for buffer in model.buffers()):
            raise ValueError("its rotary frequencies are not finite")
    except Exception as error:  # whatever transformers thinks of values we have no rule for
        _refused_by_transformers(error)
    return model


def _position_encodings(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of rotary encodings: one for all blocks, or one for each kind of block (Gemma 3)."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key)
        if isinstance(rope, dict):
            yield rope
            yield from (nested for nested in rope.values() if isinstance(nested, dict))


def _refused_by_transformers(error: Exception) -> NoReturn:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    field = re.search(r"field '(\w+)'", text)
    key, value = (field[1], "not possible") if field else ("its content", "refused by transformers")
    fail("BAD_CONFIG_VALUE", details=text, key=key, value=f"{value} ({text[:160]})", allowed="or download it again")


def _tied_head(model: PreTrainedModel) -> tuple[str, str] | None:
    """Names of the head's weight and of the embedding it is tied to, where config.json ties them."""
    if not model.config.tie_word_embeddings or not model._tied_weights_keys:
        return None
    return next(iter(model._tied_weights_keys.items()))


def _routed(model: PreTrainedModel) -> float:
    experts = next(iter(expert_modules(model).values()), None)
    return float(model.config.num_experts_per_tok / len(experts)) if experts else 1.0


def _by_model_name(
    files: dict[str, TensorInfo], expected: dict[str, Any], model: PreTrainedModel
) -> tuple[dict[str, TensorInfo], list[str]]:
    """Stored tensors by the model's names, and the names of those that are no part of it."""
    stored: dict[str, TensorInfo] = {}
    extra = []
    prefix, renamings = model.base_model_prefix, unfused_names(get_model_conversion_mapping(model))
    for name, tensor in files.items():
        renamed = name if name in expected else apply_renamings(name, renamings)
        forms = (renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}."))
        known = next((form for form in forms if form in expected), None)
        if known is None:
            extra.append(name)
        elif known in stored:
            fail("TENSOR_DUPLICATE", name=known)
        else:
            stored[known] = tensor
    return stored, [name for name in extra if not HARMLESS.search(name)]


def _check_complete(stored: dict[str, TensorInfo], expected: dict[str, Any], head: tuple[str, str] | None) -> None:
    missing = [name for name in expected if name not in stored and (head is None or name != head[0])]
    if not missing:
        return
    if missing == ["lm_head.weight"]:
        fail("HEAD_MISSING", name=missing[0])
    fail("TENSOR_MISSING", name=missing[0], count=len(missing))


def _same(stored: dict[str, TensorInfo], head: str, embedding: str) -> bool:
    """Whether a stored head repeats the embedding: 64 samples of 4 KB, as the whole can be gigabytes."""
    if head not in stored:
        return True
    a, b = stored[head], stored[embedding]
    if (a.dtype, a.bytes) != (b.dtype, b.bytes):
        return False
    places = range(0, a.bytes, max(4096, a.bytes // 64))
    return all(_piece(a.file, a.start + p, a.end) == _piece(b.file, b.start + p, b.end) for p in places)


def _piece(file: Path, start: int, end: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(min(4096, end - start))


def _warnings(separate: bool, extra: list[str]) -> list[tuple[str, str]]:
    warnings = []
    if separate:
        message = "config.json ties the head to the embedding, but the stored head differs; it is kept separate."
        warnings.append(("TIED_MISMATCH", message))
    if extra:
        message = (
            f"{len(extra)} tensors in the files are no part of the model (first: {min(extra)}); they are left out."
        )
        warnings.append(("TENSOR_EXTRA", message))
    return warnings
