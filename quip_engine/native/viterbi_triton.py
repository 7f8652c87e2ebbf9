"""The Viterbi search of ``codebooks/viterbi`` for CUDA, in Triton: one program for each sequence.

A program keeps the minima before and behind a step in its own corner of the device's memory, which stays in the caches,
and goes over those behind in blocks. The arithmetic is that of the C kernel (no fused products), and so are the paths.

Not measured on a GPU yet; the tests run it in Triton's interpreter. Triton comes with torch for CUDA and is no
requirement, so this module is imported only where it is there.
"""

# ruff: noqa: PLR0917 - a kernel takes its arguments by position

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FAR = 1e30  # cost of a state that may not be used
ROOM = 2**31  # bytes for the sequences that are searched together
BLOCK = 1024  # minima done at a time

Ends = tuple[Tensor | None, Tensor | None]


def stretch(
    x: Tensor, weights: Tensor | None, steps: Tensor, tables: Tensor, place: tuple[int, int, int], ends: Ends
) -> Tensor:
    """States: (S, count - kept) int32 for x: (S, T, V), weights: (S, T) or None, steps: (T,) uint8 on the host.

    ``tables``: (2, 2^L, V), for steps without bits and for the others; ``place``: first step, count and kept, ``ends``:
    begin and end of ``viterbi_torch.Span``.
    """
    S, told = len(x), place[1] - place[2]
    chunk = max(1, ROOM // ((tables.shape[1] >> int(steps.min())) * (8 + told)))
    found = torch.empty(S, told, dtype=torch.int32, device=x.device)
    for i in range(0, S, chunk):
        own, w, *held = (None if t is None else t[i : i + chunk].contiguous() for t in (x, weights, *ends))
        assert own is not None
        found[i : i + chunk] = _together(own, w, steps, tables.contiguous(), place, (held[0], held[1]))
    return found


def _together(
    x: Tensor, w: Tensor | None, steps: Tensor, tables: Tensor, place: tuple[int, int, int], ends: Ends
) -> Tensor:
    """``stretch`` of sequences that are searched together."""
    (S, T, V), L, (first, count, kept), (begin, end) = x.shape, tables.shape[1].bit_length() - 1, place, ends
    minima = tables.shape[1] >> int(steps.min())
    m = torch.zeros(S, 2, minima, device=x.device)  # minima before and behind a step
    if begin is not None:
        m[:, 0] = FAR
        m[:, 0].scatter_(1, begin.long()[:, None], 0)
    back = torch.empty(S, count - kept, minima, dtype=torch.uint8, device=x.device)  # ways
    states = torch.empty(S, count - kept, dtype=torch.int32, device=x.device)
    on_device = steps.to(x.device)
    kind = {"L": L, "V": V, "WEIGHTED": w is not None, "BLOCK": BLOCK, "enable_fp_fusion": False}
    _walk[(S,)](x, w, on_device, tables, m, back, T, first, count, kept, minima, **kind)
    if end is None:
        end = m[:, count % 2, : 2 ** (L - int(steps[(first + count) % T]))].argmin(1).int()
    _trace[(S,)](back, on_device, end, states, T, first + count - 1, count - kept, minima, L=L)
    return states


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    x,
    w,
    steps,
    tables,
    m,
    back,
    T,
    first,
    count,
    kept,
    minima,
    L: tl.constexpr,
    V: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``count`` steps from step ``first`` on, round the wrap; ways back are kept from the ``kept``-th on."""
    sequence = tl.program_id(0).to(tl.int64)
    for i in range(count):
        t = (first + i) % T
        k = tl.load(steps + t).to(tl.int32)
        following = tl.load(steps + (t + 1) % T).to(tl.int32)
        table = tables + tl.where(k > 0, V << L, 0)
        at = sequence * T + t
        x0 = tl.load(x + at * V)
        x1 = tl.load(x + at * V + V - 1)
        here = m + (sequence * 2 + i % 2) * minima
        there = m + (sequence * 2 + 1 - i % 2) * minima
        size = 1 << (L - following)
        for start in range(0, size, BLOCK):
            p = start + tl.arange(0, BLOCK)
            best = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
            for d in range(1 << following):
                s = p + (d << (L - following))
                e0 = x0 - tl.load(table + s * V, mask=p < size, other=0.0)
                e = e0 * e0
                if V == 2:
                    e1 = x1 - tl.load(table + s * V + 1, mask=p < size, other=0.0)
                    e += e1 * e1
                if WEIGHTED:
                    e *= tl.load(w + at)
                cost = tl.load(here + (s >> k), mask=p < size, other=0.0) + e
                best = tl.minimum(best, (cost.to(tl.int32, bitcast=True) & -(1 << following)) | d)
            tl.store(there + p, best.to(tl.float32, bitcast=True), mask=p < size)
            if i >= kept:
                way = (best & ((1 << following) - 1)).to(tl.uint8)
                tl.store(back + (sequence * (count - kept) + i - kept) * minima + p, way, mask=p < size)
        tl.debug_barrier()  # all of a step is written before the next one reads it


@triton.jit
def _trace(back, steps, end, states, T, last, count, minima, L: tl.constexpr):  # type: ignore[no-untyped-def]
    """Back from step ``last`` over ``count`` steps, ``end``: (S,) being the low bits behind it."""
    sequence = tl.program_id(0).to(tl.int64)
    low = tl.load(end + sequence)
    for i in range(count):
        t = last - i
        following = tl.load(steps + (t + 1) % T).to(tl.int32)
        at = sequence * count + count - 1 - i
        state = low + (tl.load(back + at * minima + low).to(tl.int32) << (L - following))
        tl.store(states + at, state)
        low = state >> tl.load(steps + t % T).to(tl.int32)
