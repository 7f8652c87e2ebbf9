"""LDLQ: linear feedback from the LDL factor of H, for any block width.

QuIP (arXiv 2307.13304, section 3 and theorem 1), QuIP# (arXiv 2402.04396, section 4.1: BlockLDLQ).

    H + ridge = L D L^T       target_k = W_k + sum_{j > k} (W_j - W^_j) L_jk       W^_k = round(target_k)

for blocks k from last to first. The loss is sum_k |W^_k - target_k|^2 in the metric D_k, so a quantizer that can search
in a metric is given D_k (``metric``; QuIP# uses the Euclidean one). Blocks of one column give LDLQ, which in the
opposite column order is OPTQ. Any finite grid's clipping happens inside ``round`` and is fed back with the rest.

Columns may be rounded in another order than they stand in: largest diag H first is OPTQ's activation order; largest
last leaves D more uneven, which a codebook with a rate per column turns into bits. Blocks move as a whole.

Where a codebook offers more than one codeword per block, several hypotheses per row can be kept (``beam``).

Everything is held transposed, (n, m): a block is a few contiguous rows. Feedback within a buffer of columns is applied
as it arises, feedback to the columns before it once per buffer, as one matrix product over these only.

| paper        | here                   |
|--------------|------------------------|
| alpha / rho  | ``damping``            |
| U or L       | ``L``                  |
| D            | ``D``                  |
| g            | ``quantizer.block``    |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Quantizer
from quip_engine.codebooks.branching import BranchingQuantizer
from quip_engine.errors import QuipError
from quip_engine.linalg.hessian import cholesky_, reorder_, reorder_rows_, restore_
from quip_engine.linalg.ldl import block_ldl_
from quip_engine.parts import option
from quip_engine.rounding.base import Rounded, Rounder, rounders
from quip_engine.rounding.beam import beam_ldlq
from quip_engine.rounding.columns import ORDERS, block_columns, block_order, blocks, buffers
from quip_engine.rounding.refine import refine_


@rounders.register("ldlq")
@dataclass(frozen=True)
class LDLQ(Rounder):
    """Feedback from the LDL factor of H (QuIP, QuIP#; one column at a time it is OPTQ)."""

    damping: float = option(0.01, "added to H, in parts of its mean diagonal", low=0, high=1)
    sweeps: int = option(0, "refinement passes after the first; each keeps only what lowers the loss", low=0, high=100)
    beam: int = option(1, "hypotheses per row, of codebooks that offer more than one codeword", low=1, high=64)
    metric: bool = option(True, "search codewords in the metric of their feedback; false: Euclidean, as published")
    order: str = option(
        "natural", "which columns come first by diag H, whose errors the others can still mend", choices=ORDERS
    )

    @property
    def revisits(self) -> bool:
        return self.sweeps > 0

    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        factor = feedback_(H, quantizer.block, self.order, self.damping)
        try:
            quantizer.prepare(factor.in_layer(factor.D))
            with factor.ordered_(W.T) as ordered:
                rounded, codes = self._with_feedback(ordered, factor, quantizer)
        finally:
            factor.restore_()
        factor.into_layer_(rounded)
        codes = factor.in_layer(codes)
        if self.sweeps:
            refine_(rounded, codes, W, H, quantizer, ridge=factor.ridge, sweeps=self.sweeps, metric=self.metric)
        return Rounded(rounded.T, codes, factor.notes + self._notes(quantizer))

    def _notes(self, quantizer: Quantizer) -> list[str]:
        """Options that change nothing here."""
        if self.beam == 1:
            return []
        if not isinstance(quantizer, BranchingQuantizer):
            return ["this codebook offers one codeword per block: a single hypothesis"]
        return [] if self.metric else ["hypotheses are searched in the metric: metric=false holds for sweeps alone"]

    def _with_feedback(self, W: Tensor, factor: Feedback, quantizer: Quantizer) -> tuple[Tensor, list[Tensor]]:
        if self.beam > 1 and isinstance(quantizer, BranchingQuantizer):
            return beam_ldlq(W, factor.L, factor.D, factor.place, quantizer, K=self.beam)
        return ldlq(W, factor, quantizer, metric=self.metric)


@dataclass(frozen=True)
class Feedback:
    """H + ridge I = L D L^T in the order of rounding, last to first."""

    place: list[int]  # of each block, where it was in the layer
    columns: Tensor  # (n,): of each column, the same
    L: Tensor  # (n, n), what is below its diagonal blocks; where it took the place of H, the rest is H's
    D: list[Tensor]  # (g, g) of each block
    diagonal: Tensor  # (n,) of H
    ridge: Tensor
    notes: list[str]

    def restore_(self) -> None:
        """Make H again of L."""
        restore_(self.L, self.diagonal)
        if not self._natural:
            reorder_(self.L, self.columns.argsort())

    @contextmanager
    def ordered_(self, W: Tensor) -> Iterator[Tensor]:
        """W: (n, m), its rows the columns of the layer, in the order of rounding, in place until the end."""
        if not self._natural:
            reorder_rows_(W, self.columns)
        try:
            yield W
        finally:
            self.into_layer_(W)

    def into_layer_(self, W: Tensor) -> None:
        """Bring the rows of W: (n, m) from the order of rounding into that of the layer."""
        if not self._natural:
            reorder_rows_(W, self.columns.argsort())

    @property
    def _natural(self) -> bool:
        return self.place == sorted(self.place)

    def in_layer(self, blocks: list[Tensor]) -> list[Tensor]:
        """One item per block, in the order of the layer."""
        return [item for _, item in sorted(zip(self.place, blocks, strict=True), key=lambda pair: pair[0])]


def feedback(H: Tensor, block: int, order: str = "natural", damping: float = 0.01) -> Feedback:
    """Factorize H: (n, n) for blocks of so many columns."""
    return feedback_(H.clone(), block, order, damping)


def feedback_(H: Tensor, block: int, order: str = "natural", damping: float = 0.01) -> Feedback:
    """The same in the place of H, until ``restore_``."""
    place = block_order(H.diagonal(), block, order)
    columns = block_columns(place, block, len(H))
    moved = bool((place.diff() < 0).any())
    if moved:
        reorder_(H, columns)
    try:
        diagonal, ridge, notes = cholesky_(H, damping, "the layer")
    except QuipError:
        if moved:
            reorder_(H, columns.argsort())
        raise
    return Feedback(place.tolist(), columns, *block_ldl_(H, block), diagonal, ridge, notes)


def ldlq(W: Tensor, factor: Feedback, quantizer: Quantizer, *, metric: bool = True) -> tuple[Tensor, list[Tensor]]:
    """W^ transposed: (n, m), and the codes of each block, for W transposed: (n, m); both in the order of rounding."""
    n, m = W.shape
    g, L = quantizer.block, factor.L
    codes = []
    work = W.clone(memory_format=torch.contiguous_format)  # targets, and where they are done, W^
    for first, last in buffers(n, g):
        error = W.new_empty(last - first, m)  # W - W^ of this buffer
        for start, stop in blocks(first, last, g):
            k = start // g
            target = torch.addmm(work[start:stop], L[stop:last, start:stop].T, error[stop - first :])
            value, code = quantizer.round(target.T, factor.place[k] * g, factor.D[k] if metric else None)
            codes.append(code)
            work[start:stop] = value.T
            error[start - first : stop - first] = W[start:stop] - value.T
        work[:first].addmm_(L[first:last, :first].T, error)
    return work, codes[::-1]
