"""Exceptions of a worker as a person will read them."""

import pytest
import torch

from quip_engine.errors import QuipError
from quip_engine.runs.defects import named


def test_what_has_a_name_keeps_it():
    error = QuipError("DISK_FULL", "Full.")
    assert named(error) == (error, 2)


@pytest.mark.parametrize("how", ["python", "torch"])
def test_memory_that_ran_out_is_told_from_defects(how):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        bytearray(1 << 60) if how == "python" else torch.empty(1 << 60, dtype=torch.uint8)
    error, status = named(caught.value)
    assert (error.code, status) == ("HOST_MEMORY", 2)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later", "GPU_LOST"),
        ("CUDA error: uncorrectable ECC error encountered", "GPU_LOST"),
        ("CUDA error: unknown error", "GPU_LOST"),
        ("CUDA error: device-side assert triggered", "DEFECT"),
        ("CUDA error: an illegal memory access was encountered", "DEFECT"),
    ],
)
def test_a_gpu_that_died_is_told_from_defects(words, code):
    error, _ = named(RuntimeError(words))
    assert error.code == code
    assert words.partition("\n")[0] in error.message


def test_the_rest_is_our_defect_with_its_trace():
    error, status = named(ValueError("odd"))
    assert (error.code, error.message, status) == ("DEFECT", "ValueError: odd", 1)
    assert "ValueError" in error.details
