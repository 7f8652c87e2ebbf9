"""Tensors to pointers, memory for results, and one kernel on several threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from quip_engine.native.build import library

LARGE = 2**22  # bytes worth asking large pages for


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous CPU tensor's first element, which must outlive the call; NULL for None."""
    if tensor is None:
        return ctypes.c_void_p(None)
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"a kernel takes contiguous CPU tensors, not {tensor.device} of stride {tensor.stride()}")
    return ctypes.c_void_p(tensor.data_ptr())


def fresh(*shape: int, dtype: torch.dtype) -> Tensor:
    """An uninitialized CPU tensor, a large one on large pages: getting memory takes longer than unpacking into it."""
    tensor, kernels = torch.empty(*shape, dtype=dtype), library()
    if kernels is not None and tensor.nbytes >= LARGE:
        kernels.large_pages(pointer(tensor), ctypes.c_int64(tensor.nbytes))
    return tensor


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another type, for one that needs no gradient: in ``fresh`` memory where that pays."""
    if x.dtype == dtype:
        return x
    if x.device.type != "cpu" or x.numel() * dtype.itemsize < LARGE or torch.compiler.is_compiling():
        return x.to(dtype)
    return x.to(dtype) if x.requires_grad and torch.is_grad_enabled() else fresh(*x.shape, dtype=dtype).copy_(x)


def in_threads(kernel: Callable[[int, int], object], count: int, least: int = 1) -> None:
    """Call ``kernel(start, stop)`` over ranges that cover 0 to ``count``, one per thread of torch's setting.

    No range is shorter than ``least`` (work too small to hand over) but for the only one. The kernel must work on each
    item by itself: then the number of threads changes nothing in the result.
    """
    threads = max(1, min(torch.get_num_threads(), count // max(least, 1)))
    if threads == 1:
        kernel(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    for done in [_pool(threads).submit(kernel, *edge) for edge in pairwise(edges)]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")
