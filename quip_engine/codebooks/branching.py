"""Quantizers that offer several codewords for a block, and the step of a beam search over blocks that uses them.

    loss of a row = sum_k |W^_k - target_k|^2_{D_k}       target_k = W_k + sum_{j > k} (W_j - W^_j) L_jk

A row keeps its K best beginnings (``Beam``), each with its own errors and so its own targets. A block extends each of
them by every codeword its quantizer offers; the K best of these stay. Sequential decoding calls this the M-algorithm.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Quantizer


@dataclass
class Beam:
    """The K hypotheses of each of m rows, best first, over the last w columns that are not decided."""

    loss: Tensor  # (m, K) so far; infinite where there is no hypothesis
    error: Tensor  # (m, K, w): W - W^
    codes: Tensor  # (m, K, blocks, ...) int32

    def widen(self, columns: int, blocks: int) -> None:
        """Make room for the columns and blocks before these."""
        self.error = _room_before(self.error, columns)
        self.codes = _room_before(self.codes, blocks)

    def decide(self, column: int, block: int) -> list[Tensor]:
        """The best codes: (m, ...) of each block from this one on; hypotheses with other errors there are dropped."""
        fixed = self.error[..., column:]
        agree = (fixed == fixed[:, :1]).all(2)
        self.loss = torch.where(agree, self.loss, torch.inf)
        self.error = self.error[..., :column].contiguous()  # the room of the others is needed
        codes, self.codes = self.codes[:, 0, block:].long(), self.codes[:, :, :block]
        return list(codes.unbind(1))


@dataclass(frozen=True)
class Window:
    """The first c of these w columns: those that a beam is to go through now, transposed."""

    W: Tensor  # (c, m)
    target: Tensor  # (c, m): W with the feedback of all columns that are decided
    L: Tensor  # (w, c)
    D: list[Tensor]  # (g, g) of each block, first to last
    starts: list[int]  # the first column of each block in the layer


class BranchingQuantizer(Quantizer):
    """Offers more codewords for a block than the best, for a rounder that weighs them by what follows."""

    code_shape: tuple[int, ...] = ()  # of one block of one row

    @abstractmethod
    def choices(self, x: Tensor, start: int, metric: Tensor) -> tuple[Tensor, Tensor]:
        """Codes: (C, N, ...) int32 of C codewords near x: (N, g), and their e M e^T: (C, N); else like ``round``."""

    @abstractmethod
    def values(self, codes: Tensor, start: int) -> Tensor:
        """The codewords: (N, block) of codes: (N, ...) of the block that starts at column ``start``."""

    def beam(self, m: int, K: int, device: torch.device) -> Beam:
        """One hypothesis per row, of no columns."""
        loss = torch.full((m, K), torch.inf, device=device)
        loss[:, 0] = 0
        codes = torch.empty(m, K, 0, *self.code_shape, dtype=torch.int32, device=device)
        return Beam(loss, loss.new_empty(m, K, 0), codes)

    def extend_(self, beam: Beam, window: Window) -> None:
        """Take a beam through all blocks of a window, last to first."""
        last = len(window.W)
        for k in reversed(range(len(window.D))):
            first = k * self.block
            self._extend_block_(beam, window, k, first, last)
            last = first

    def _extend_block_(self, beam: Beam, window: Window, k: int, first: int, last: int) -> None:
        m, K, width = beam.error.shape
        feedback = beam.error[..., last:] @ window.L[last:, first:last]
        target = (window.target[first:last].T[:, None] + feedback).flatten(0, 1)
        codes, loss = self.choices(target, window.starts[k], window.D[k])
        offers = len(codes)
        after = beam.loss[..., None] + loss.view(offers, m, K).permute(1, 2, 0)
        beam.loss, kept = after.flatten(1).topk(K, largest=False)
        # Numbers over all rows: of the hypotheses extended, and of the extensions in ``codes``.
        source = (kept // offers + K * torch.arange(m, device=kept.device)[:, None]).flatten()
        code = codes.flatten(0, 1).index_select(0, kept.flatten() % offers * (m * K) + source)
        beam.error = beam.error.flatten(0, 1).index_select(0, source).view(m, K, width)
        beam.codes = beam.codes.flatten(0, 1).index_select(0, source).view_as(beam.codes)
        value = self.values(code, window.starts[k])[:, : last - first].view(m, K, -1)
        beam.error[..., first:last] = window.W[first:last].T[:, None] - value
        beam.codes[:, :, k] = code.unflatten(0, (m, K))


def _room_before(held: Tensor, count: int) -> Tensor:
    m, K, there, *shape = held.shape
    wider = held.new_zeros(m, K, count + there, *shape)
    wider[:, :, count:] = held
    return wider
