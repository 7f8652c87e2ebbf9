"""Viterbi over the bitshift trellis in torch operations: see ``viterbi``, whose kernel this equals step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 1e30  # cost of a state that may not be used
ROOM = 2**28  # bytes for the sequences that are searched together


@dataclass(frozen=True)
class Span:
    """Steps of a trellis, ``count`` from ``first`` on, round the wrap; states of the ``kept``-th and later are told.

    ``begin`` and ``end``: (S,) int32, the low bits before the first of the steps and behind the last (None: any).
    """

    first: int
    count: int
    kept: int = 0
    begin: Tensor | None = None
    end: Tensor | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        return self.first, self.count, self.kept

    @property
    def told(self) -> int:
        return self.count - self.kept

    def ends(self, some: slice) -> tuple[Tensor | None, Tensor | None]:
        """``begin`` and ``end`` of some sequences."""
        begin, end = (None if bits is None else bits[some].contiguous() for bits in (self.begin, self.end))
        return begin, end


@dataclass(frozen=True)
class Trellis:
    """2^L states. Step t consumes ``steps[t]`` bits and reads ``table``: (2^L, V), or ``idle`` where these are none."""

    L: int
    steps: list[int]
    table: Tensor
    idle: Tensor

    def stretch(self, x: Tensor, weights: Tensor | None, span: Span) -> Tensor:
        """States: (S, ``span.told``) int32 for x: (S, T, V)."""
        S, T, _ = x.shape
        order = [(span.first + i) % T for i in range(span.count)]
        chunk = max(1, ROOM // (16 * 2**self.L + span.told * 2 ** (self.L - min(self.steps))))
        found = torch.empty(S, span.told, dtype=torch.int32, device=x.device)
        for i in range(0, S, chunk):
            part = slice(i, i + chunk)
            begin, end = span.ends(part)
            m = x.new_zeros(len(x[part]), self._minima(span.first))
            if begin is not None:
                m.fill_(FAR).scatter_(1, begin[:, None].long(), 0)
            m, back = self._walk(x[part], None if weights is None else weights[part], m, order, span.kept)
            found[part] = self._trace(back, order[span.kept :], m.argmin(1) if end is None else end.long())
        return found

    def _minima(self, t: int) -> int:
        """How many there are before step t."""
        return 2 ** (self.L - self.steps[t])

    def _walk(
        self, x: Tensor, weights: Tensor | None, m: Tensor, order: list[int], kept: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Minima after the steps ``order`` from those before: (S, 2^(L - k)); ways back from the ``kept``-th on."""
        S, T, V = x.shape
        back = []
        for i, t in enumerate(order):
            k, following = self.steps[t], self.steps[(t + 1) % T]
            table = self.table if k else self.idle
            cost = (x[:, t, :1] - table[:, 0]).square_()
            if V == 2:
                cost += (x[:, t, 1:] - table[:, 1]).square_()
            if weights is not None:
                cost *= weights[:, t, None]
            cost.view(S, -1, 2**k).add_(m[:, :, None])
            ways = torch.arange(2**following, dtype=torch.int32, device=x.device)
            keys = cost.view(torch.int32).bitwise_and_(-(2**following)).view(S, 2**following, -1)
            least = keys.bitwise_or_(ways[:, None]).amin(1)
            if i >= kept:
                back.append((least & (2**following - 1)).to(torch.uint8))
            m = least.view(torch.float32)
        return m, back

    def _trace(self, back: list[Tensor], order: list[int], p: Tensor) -> Tensor:
        """States: (S, len(order)) int32 from ways back and the low bits p: (S,) at the end."""
        states = []
        for t, ways in zip(reversed(order), reversed(back), strict=True):
            way = ways.gather(1, p[:, None])[:, 0].long()
            state = p + (way << (self.L - self.steps[(t + 1) % len(self.steps)]))
            states.append(state)
            p = state >> self.steps[t]
        return torch.stack(states[::-1], 1).int()
