"""Viterbi over the bitshift trellis: the states whose values lie closest to a sequence.

QTIP (arXiv 2406.11235, sections 3 and 4). A state is a window of L bits; step t shifts k_t new ones in and emits the
value of the state it arrives at:

    state_t = ((state_{t-1} << k_t) mod 2^L) | new bits         cost = sum_t w_t |x_t - table[state_t]|^2

The path bites its tail: the step before the first is the last, so that the path is a circular string of B = sum k_t
bits, and state_t the L bits of it that end with step t. k_t may differ from step to step, which is how a rate between
whole numbers is met; a step without bits stays in its state and reads a second table, ``idle``.

The exact circular path would take a search from every start. Two passes come within 0.2 % of it (QTIP, algorithm 4):
the first, free at both ends, runs across the wrap and tells which bits lie there; the second is held to them.

A pass keeps m_t[p], the least cost over states whose low L - k_t bits are p, before step t:

    m_{t+1}[p] = min over d of  m_t[s >> k_t] + w_t |x_t - table[s]|^2,         s = p + d 2^(L - k_{t+1})

Costs are not negative, so their float32 bits have their order. d is written over the lowest k bits of the mantissa:
one minimum of integers gives the cost (to 2^(k-23) of it, far below what tells paths apart) and the way back. The
compiled kernel, the torch code and the Triton kernel do the same operations in the same order and find the same paths.

| paper      | here             |
|------------|------------------|
| L          | ``L``            |
| kV         | ``steps``        |
| V          | ``x.shape[2]``   |
| C          | ``table``        |
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

from quip_engine.codebooks.viterbi_torch import Span, Trellis
from quip_engine.native import in_threads, library, pointer

MOST_BITS = 8  # of one step


def best_path(
    x: Tensor,
    table: Tensor,
    steps: Tensor,
    *,
    weights: Tensor | None = None,
    idle: Tensor | None = None,
    wrap: int | None = None,
) -> Tensor:
    """States: (S, T) int32 of the tail-biting path of each of S sequences.

    ``x``: (S, T, V) float32, V = 1 or 2; ``weights``: (S, T) float32, not negative (None: 1; 0 where a step does not
    count); ``wrap``: how many steps on either side of the wrap the first pass looks at, at least 1 (None: all). The
    rest is as in ``Search``. Raises ``ValueError``.
    """
    return Search(table, steps, idle=idle).closed(x, weights, wrap)


class Search:
    """The trellis of one table and one order of steps, ready for sequences."""

    def __init__(self, table: Tensor, steps: Tensor, *, idle: Tensor | None = None) -> None:
        """``table``: (2^L, V) float32, L <= 16; ``steps``: (T,) uint8, bits each step consumes, 0 to 8, the same for
        all sequences, together at least L; ``idle``: (2^L, V), read at steps without bits (None: ``table``).

        Raises ``ValueError`` for shapes that do not fit and for a string shorter than one window: its states would
        overlap themselves. Callers lengthen such sequences with steps of weight 0.
        """
        L = _checked(table, steps, idle)
        self.trellis = Trellis(L, steps.tolist(), table, table if idle is None else idle)
        self.steps = steps.cpu()

    def closed(self, x: Tensor, weights: Tensor | None = None, wrap: int | None = None) -> Tensor:
        """``best_path`` for more sequences of the same kind."""
        around = self.wrap(x, weights, wrap)
        return self.stretch(x, weights, Span(0, len(self.steps), begin=around, end=around))

    def wrap(self, x: Tensor, weights: Tensor | None = None, steps: int | None = None) -> Tensor:
        """The low bits before the first step: (S,) int32, as a path free at both ends goes across the wrap.

        ``steps``: how many on either side of the wrap it looks at.
        """
        if steps is not None and steps < 1:
            raise ValueError(f"wrap: {steps} steps around it show nothing")
        T = len(self.steps)
        before, after = (T // 2, T - T // 2) if steps is None or steps >= T // 2 else (steps, steps)
        states = self.stretch(x, weights, Span((T - before) % T, before + after, kept=before))
        return states[:, 0] >> self.trellis.steps[0]

    def overlap(self, step: int) -> int:
        """A mask of the bits that the state of ``step`` shares with the one before it: the low ones of that."""
        return (1 << (self.trellis.L - self.trellis.steps[step])) - 1

    def stretch(self, x: Tensor, weights: Tensor | None, span: Span) -> Tensor:
        """States: (S, ``span.told``) int32 of the cheapest paths through some steps.

        ``x``: (S, T, V); ``weights``: (S, T). Raises ``ValueError``.
        """
        self._check(x, weights)
        x, weights = x.contiguous(), None if weights is None else weights.contiguous()
        if x.device.type == "cpu" and (lib := library()) is not None:
            return self._compiled(lib, x, weights, span)
        if x.device.type == "cuda" and find_spec("triton") is not None:
            from quip_engine.native.viterbi_triton import stretch  # noqa: PLC0415 - Triton is not everywhere

            tables = torch.stack([self.trellis.idle, self.trellis.table])
            return stretch(x, weights, self.steps, tables, span.place, (span.begin, span.end))
        return self.trellis.stretch(x, weights, span)

    def _compiled(self, lib: ctypes.CDLL, x: Tensor, weights: Tensor | None, span: Span) -> Tensor:
        """``stretch`` by the C kernel."""
        S, T, V = x.shape
        states = torch.empty(S, span.told, dtype=torch.int32)
        arrays = [pointer(t) for t in (x, weights, self.steps, self._tables)]
        sizes = self.trellis.L, V, *map(ctypes.c_int64, (T, *span.place))
        ends = pointer(span.begin), pointer(span.end)

        def kernel(start: int, stop: int) -> None:
            if lib.viterbi(*arrays, *sizes, *ends, ctypes.c_int64(start), ctypes.c_int64(stop), pointer(states)):
                raise MemoryError("the paths of a trellis")

        in_threads(kernel, S)
        return states

    @cached_property
    def _tables(self) -> Tensor:
        """The tables in the order that the C kernel reads them in."""
        lib, L, V = library(), self.trellis.L, self.trellis.table.shape[1]
        assert lib is not None
        used = sum({1 << k for k in self.trellis.steps})
        lib.viterbi_room.restype = ctypes.c_int64
        tables = torch.empty(lib.viterbi_room(used, L, V))
        source = [t.contiguous() for t in (self.trellis.table, self.trellis.idle)]
        lib.viterbi_tables(used, L, V, *map(pointer, source), pointer(tables))
        return tables

    def _check(self, x: Tensor, weights: Tensor | None) -> None:
        S, T, V = x.shape
        fits = self.trellis.table.shape[1] == V and len(self.steps) == T
        fits &= weights is None or weights.shape == (S, T)
        if not fits or x.dtype != torch.float32 or (weights is not None and weights.dtype != torch.float32):
            raise ValueError(f"x {tuple(x.shape)} and its weights do not fit to {len(self.steps)} steps")


def _checked(table: Tensor, steps: Tensor, idle: Tensor | None) -> int:
    """L, where everything fits together."""
    L, V = len(table).bit_length() - 1, table.shape[1]
    fits = table.shape == (2**L, V) and V in (1, 2) and 0 < L <= 16 and steps.ndim == 1
    fits &= idle is None or idle.shape == table.shape
    floats = all(t.dtype == torch.float32 for t in (table, idle) if t is not None)
    if not (fits and floats and steps.dtype == torch.uint8):
        raise ValueError(f"table {tuple(table.shape)} and steps {tuple(steps.shape)} do not fit")
    if steps.max() > min(MOST_BITS, L) or int(steps.sum()) < L:
        together = f"{len(steps)} steps of {int(steps.sum())} bits together"
        raise ValueError(f"{together} make no circular path of {L}-bit states")
    return L
