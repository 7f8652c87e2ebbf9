"""What a worker says of an exception: memory that ran out and a dead GPU have names, what has none is our defect."""

from __future__ import annotations

import re
import sys
import traceback

from quip_engine.errors import CATALOGUE, QuipError, without_tokens

# How PyTorch and C++ word it where Python has MemoryError.
WORDS = ("can't allocate memory", "DefaultCPUAllocator", "std::bad_alloc", "Cannot allocate memory")
# How CUDA words a GPU that has failed; what programs do wrong ("illegal memory access", "assert") is not among it.
LOST = re.compile(
    r"CUDA error: .*?(uncorrectable|hardware|unspecified launch failure|launch timed out|unknown error|lost|"
    r"no CUDA-capable device|busy or unavailable)[^\n]*"
)


def named(error: BaseException) -> tuple[QuipError, int]:
    """The error to show, and the exit status of the worker."""
    if isinstance(error, QuipError):
        return error, 2
    if isinstance(error, MemoryError) or any(word in str(error) for word in WORDS):
        return out_of_memory(), 2
    if found := LOST.search(str(error)):
        message, hint = CATALOGUE["GPU_LOST"]
        return QuipError("GPU_LOST", message.format(reason=found[0].rstrip(".")), hint, str(error)), 2
    text = without_tokens("".join(traceback.format_exception(error)))
    sys.stderr.write(text)
    message, hint = f"{type(error).__name__}: {error}", "This is a defect of QuIP Studio; what is finished is saved."
    return QuipError("DEFECT", message, hint, text), 1


def out_of_memory(where: str = "") -> QuipError:
    message, hint = CATALOGUE["HOST_MEMORY"]
    return QuipError("HOST_MEMORY", message.format(where=where), hint)
