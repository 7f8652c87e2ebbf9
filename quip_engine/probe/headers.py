"""Read the header of a safetensors file: names, dtypes, shapes and places, no weights.

    file = length of header (8 bytes, little endian) | header (JSON) | data

The library's reader accepts headers that cost seconds and a gigabyte; this one has limits and proves that the tensors
tile the data exactly, so a file that passes is complete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quip_engine.errors import fail
from quip_engine.probe.folder import Pairs, parsed, refuse_placeholder

MOST_HEADER_BYTES = 32 * 2**20
MOST_TENSORS = 100_000
FIELDS = {"dtype", "shape", "data_offsets"}
# safetensors' names of dtypes: (torch's name, bits per element)
DTYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor; ``start`` and ``end`` count bytes from the beginning of ``file``."""

    file: Path
    dtype: str  # as torch names it
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


def read_all(files: list[Path]) -> dict[str, TensorInfo]:
    """The tensors of all files by name; a name in two files is refused."""
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        found = read_header(file)
        if doubled := tensors.keys() & found.keys():
            fail("TENSOR_DUPLICATE", name=min(doubled))
        tensors |= found
    return tensors


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one file by name; refuses files that are empty, cut short, or no safetensors."""
    try:
        size = file.stat().st_size
        if size == 0:
            fail("SHARD_EMPTY", file=file.name)
        refuse_placeholder(file)
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > MOST_HEADER_BYTES:
                _broken(file, f"its header claims {length} bytes")
            if 8 + length > size:
                fail("SHARD_TRUNCATED", file=file.name, have=size, want=f"at least {8 + length}")
            text = stream.read(length)
    except PermissionError:
        fail("NO_PERMISSION", path=file)
    return _tensors(file, text, size)


def _tensors(file: Path, text: bytes, size: int) -> dict[str, TensorInfo]:
    if (count := text.count(b'"data_offsets"')) > MOST_TENSORS:
        _broken(file, f"it lists {count} tensors")
    try:
        header = parsed(text, hook=_no_doubles)
        _refuse_odd_texts([*header, *(header.pop("__metadata__", None) or {}).values()])
        tensors = {name: _tensor(file, entry, 8 + len(text)) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _broken(file, f"its header cannot be read ({str(error)[:200]})")
    end = 8 + len(text)
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            _broken(file, f"{name} does not begin where the tensor before it ends")
        end = tensor.end
    if end > size:
        fail("SHARD_TRUNCATED", file=file.name, have=size, want=end)
    if end < size:
        _broken(file, f"{size - end} bytes belong to no tensor")
    return tensors


def _tensor(file: Path, entry: dict[str, Any], data: int) -> TensorInfo:
    if entry.keys() != FIELDS:
        raise ValueError("a tensor has other fields")
    dtype, bits = DTYPES[entry["dtype"]]
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**60 for number in [*shape, start, end]):
        raise ValueError("a shape or an offset is not a number")
    if (end - start) * 8 != math.prod(shape) * bits:
        raise ValueError("a shape does not match its bytes")
    return TensorInfo(file, dtype, tuple(shape), data + start, data + end)


def _refuse_odd_texts(texts: list[Any]) -> None:
    """Names and metadata that the library's reader would refuse later."""
    for text in texts:
        text.encode()  # half of a character of two, or no text at all


def _no_doubles(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _broken(file: Path, reason: str) -> NoReturn:
    fail("BAD_SAFETENSORS", file=file.name, reason=reason)
