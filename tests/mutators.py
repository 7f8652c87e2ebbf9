"""Damage to model files, drawn from a seed: to safetensors files and to JSON, in their bytes and in what they say.

    mutated(SAFETENSORS or JSON, good bytes, seed) -> kind of damage, damaged bytes

The same seed gives the same bytes for ever: what a seed has broken once can be kept as a test.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 32, 10**6, 10**18, -(10**30), 1.5, float("nan"), float("inf")),
    *("", "x", "gelu", "float32", "\0", "\ud800", "a" * 5000, [], {}, [1, 2], [None], {"a": 1}, [[[]]] * 9),
    *(["BertModel"], [0, 1], {"full_attention": {"rope_type": "foo"}}, {"sliding_attention": {"type": ["x"]}}),
    *({"rope_type": "llama3"}, {"rope_type": "yarn", "factor": "x"}, {"rope_type": "linear", "factor": 0}),
]
KEYS = [
    *("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "layer_types", "sliding_window"),
    *("quantization_config", "dtype", "torch_dtype", "attn_implementation", "model_type", "tie_word_embeddings"),
    *("num_labels", "id2label", "pruned_heads", "is_encoder_decoder", "text_config", "sub_configs", "attribute_map"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "architectures", "mlp_only_layers", "head_dim"),
    *("to_dict", "save_pretrained", "get_text_config", "__class__", "__dict__", "transformers_version"),
    *("eos_token_id", "pad_token", "chat_template", "tokenizer_class", "added_tokens_decoder", "extra_special_tokens"),
]
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "BOOL", "F8_E4M3", "F4", "C64", "x", 1)
NUMBERS = (-1, 0, 1, 7, 2**31, 2**53, 2**63 - 1, 2**64, 10**40, 1.5, "8", None, True, [])
FILLERS = (b"[]", b"{}", b'"ab"', b"1000", b'["",""]', b"1e5", b'{"a":{}}')


def mutated(kinds: Mapping[str, Mutator], good: bytes, seed: object) -> tuple[str, bytes]:
    """One kind of damage, or two in a tenth of the cases."""
    draw = random.Random(str(seed))
    names = draw.choices(list(kinds), k=2 if draw.random() < 0.1 else 1)
    with contextlib.suppress(RecursionError):  # too deep to be damaged any more
        for name in names:
            good = kinds[name](good, draw)
    return " and ".join(names), good


# -- bytes of any file -------------------------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 50]) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def extended(data: bytes, draw: random.Random) -> bytes:
    more = draw.choice([b"\0", b" ", b"\n", b"}", draw.randbytes(16)]) * draw.choice([1, 8, 4096])
    return data + more if draw.random() < 0.7 else more + data


def not_utf8(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\0"]) + data[at:]


# -- JSON --------------------------------------------------------------------------------------------------------------


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a tree of JSON."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _tree(data: bytes) -> Any:
    """Parsed JSON to be changed; what is damaged already has nothing in it."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict | list) else {}


def _text(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def other_values(data: bytes, draw: random.Random) -> bytes:
    """Values anywhere in the tree become others, or those of another place."""
    tree = _tree(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        if places := list(_places(tree)):
            into, key = draw.choice(places)
            other, there = draw.choice(places)
            moved = draw.random() < 0.2
            into[key] = copy.deepcopy(other[there] if moved else draw.choice(VALUES))
    return _text(tree)


def other_keys(data: bytes, draw: random.Random) -> bytes:
    """Keys of objects go, come, or change."""
    tree = _tree(data)
    objects = [tree, *(into[key] for into, key in _places(tree))]
    for _ in range(draw.choice([1, 1, 2, 3])):
        into = draw.choice([x for x in objects if isinstance(x, dict)] or [{}])
        what, key = draw.choice(["add", "add", "remove", "rename"]), draw.choice([*into, "x"])
        value = into.pop(key, None) if what != "add" else copy.deepcopy(draw.choice(VALUES))
        if what != "remove":
            into[draw.choice(KEYS) if what == "add" else draw.choice([key + "x", key[1:], key.upper(), ""])] = value
    return _text(tree)


def doubled(data: bytes, draw: random.Random) -> bytes:
    """An object has a key twice."""
    at, tree = data.find(b"{") + 1, _tree(data)
    key = draw.choice([*tree, "x"]) if isinstance(tree, dict) else "x"
    return data[:at] + json.dumps(key).encode() + b":" + json.dumps(draw.choice(VALUES)).encode() + b"," + data[at:]


def deep(data: bytes, draw: random.Random) -> bytes:
    """Brackets in brackets."""
    depth = draw.choice([50, 900, 5000, 200_000])
    opening, closing = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return _with(data, opening * depth + b"1" + closing * depth)


def huge(data: bytes, draw: random.Random) -> bytes:
    """Very much of something small: one in thirty would take the whole memory of a reader without limits."""
    size = draw.choice([10**4] * 20 + [10**6] * 9 + [30 * 2**20])
    filler = draw.choice(FILLERS)
    if draw.random() < 0.2:
        return _with(data, b"{" + b",".join(b'"%x":1' % i for i in range(size // 9)) + b"}")
    return _with(data, b"[" + b",".join([filler] * (size // (len(filler) + 1))) + b"]")


def _with(data: bytes, value: bytes) -> bytes:
    """JSON with one more value at the front of its object."""
    at = data.find(b"{") + 1
    return data[:at] + b'"' + (b"__metadata__" if len(value) % 2 else b"extra") + b'":' + value + b"," + data[at:]


JSON: dict[str, Mutator] = {
    "bits": flipped,
    "cut": truncated,
    "longer": extended,
    "not UTF-8": not_utf8,
    "values": other_values,
    "keys": other_keys,
    "doubled key": doubled,
    "deep": deep,
    "huge": huge,
}

# -- safetensors -------------------------------------------------------------------------------------------------------


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Header and data."""
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def _file(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _in_header(mutator: Mutator) -> Mutator:
    def damage(data: bytes, draw: random.Random) -> bytes:
        header, rest = _parts(data)
        return _file(mutator(header, draw), rest)

    return damage


def _in_data(data: bytes, draw: random.Random) -> bytes:
    header, rest = _parts(data)
    return _file(header, flipped(rest, draw))


def _not_finite(data: bytes, draw: random.Random) -> bytes:
    """NaN and infinity of float32 and, with the same upper bytes, of bfloat16."""
    header, rest = _parts(data)
    at = draw.randrange(max(1, len(rest) // 4)) * 4
    return _file(header, rest[:at] + draw.choice([b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\xc0\x7f"]) + rest[at + 4 :])


def _length(data: bytes, draw: random.Random) -> bytes:
    """The file lies about its header."""
    length = int.from_bytes(data[:8], "little")
    other = draw.choice(
        [0, 1, length - 1, length + 1, 2 * length, 2**25, 2**31, 2**63, 2**64 - 1, draw.getrandbits(64)]
    )
    return (other % 2**64).to_bytes(8, "little") + data[8:]


def _entries(change: Callable[[dict[str, Any], dict[str, Any], random.Random], None]) -> Mutator:
    """Change one or two tensors of the header."""

    def damage(data: bytes, draw: random.Random) -> bytes:
        header, rest = _parts(data)
        tree = _tree(header)
        found = (
            {k: v for k, v in tree.items() if isinstance(v, dict) and "shape" in v} if isinstance(tree, dict) else {}
        )
        for name in draw.sample(list(found), min(len(found), draw.choice([1, 1, 2]))):
            change(tree, found[name], draw)
        return _file(_text(tree), rest)

    return damage


def _dtype(_tree: dict[str, Any], entry: dict[str, Any], draw: random.Random) -> None:
    entry["dtype"] = draw.choice(DTYPES)


def _shape(_tree: dict[str, Any], entry: dict[str, Any], draw: random.Random) -> None:
    shape = entry["shape"]
    kind = draw.randrange(5)
    if not isinstance(shape, list) or kind == 0:
        entry["shape"] = draw.choice([[], None, "x", [[]], {}, [10**40, 0], [2**32, 2**32], [0], shape])
    elif kind == 1:
        entry["shape"] = shape[::-1]
    elif kind == 2:
        entry["shape"] = [1, *shape] if draw.random() < 0.5 else [*shape, 1]
    elif kind == 3 and shape:
        shape[draw.randrange(len(shape))] = draw.choice(NUMBERS)
    elif len(shape) > 1:
        entry["shape"] = [shape[0] * 2, shape[1] // 2, *shape[2:]] if isinstance(shape[1], int) else [1]


def _offset(tree: dict[str, Any], entry: dict[str, Any], draw: random.Random) -> None:
    others = [v["data_offsets"] for v in tree.values() if isinstance(v, dict) and "data_offsets" in v]
    offsets = entry.get("data_offsets")
    if draw.random() < 0.3 or not isinstance(offsets, list) or not offsets:
        entry["data_offsets"] = draw.choice([*others, [], None, [0], [0, 0, 0], [8, 0]])  # over another, or nonsense
    else:
        end = draw.randrange(len(offsets))
        shifted = isinstance(offsets[end], int) and draw.random() < 0.5
        offsets[end] = offsets[end] + draw.choice([-8, -1, 1, 4, 2**40]) if shifted else draw.choice(NUMBERS)


def _exchanged(tree: dict[str, Any], entry: dict[str, Any], draw: random.Random) -> None:
    """Two tensors have each other's bytes."""
    other = draw.choice([v for v in tree.values() if isinstance(v, dict) and "shape" in v])
    for key in ("shape", "data_offsets"):
        entry[key], other[key] = other.get(key), entry.get(key)


SAFETENSORS: dict[str, Mutator] = {
    **{f"header: {name}": _in_header(mutator) for name, mutator in JSON.items()},
    "data": _in_data,
    "not finite": _not_finite,
    "cut": truncated,
    "longer": extended,
    "length": _length,
    "dtype": _entries(_dtype),
    "shape": _entries(_shape),
    "offsets": _entries(_offset),
    "exchanged": _entries(_exchanged),
}
