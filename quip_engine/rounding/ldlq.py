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

from dataclasses import dataclass

import torch
from torch import Tensor

from quip_engine.codebooks.base import Quantizer
from quip_engine.codebooks.branching import BranchingQuantizer
from quip_engine.linalg.hessian import ROWS, cholesky
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

    def round(self, W: Tensor, H: Tensor, quantizer: Quantizer, generator: torch.Generator) -> Rounded:
        factor = feedback(H, quantizer.block, self.order, self.damping)
        quantizer.prepare(factor.in_layer(factor.D))
        rounded, codes = self._with_feedback(factor.ordered(W.T), factor, quantizer)
        rounded, codes = factor.columns_in_layer(rounded), factor.in_layer(codes)
        notes, ridge = factor.notes + self._notes(quantizer), factor.ridge
        del factor  # the sweeps need the room
        if self.sweeps:
            refine_(rounded, codes, W, H, quantizer, ridge=ridge, sweeps=self.sweeps, metric=self.metric)
        return Rounded(rounded.T, codes, notes)

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
    L: Tensor  # (n, n)
    D: list[Tensor]  # (g, g) of each block
    ridge: Tensor
    notes: list[str]

    def ordered(self, W: Tensor) -> Tensor:
        """The rows of W: (n, m), columns of the layer, in the order of rounding."""
        return W if self._natural else W[self.columns]

    def columns_in_layer(self, W: Tensor) -> Tensor:
        """The rows of W: (n, m), columns in the order of rounding, in the order of the layer."""
        return W if self._natural else W[self.columns.argsort()]

    @property
    def _natural(self) -> bool:
        return self.place == sorted(self.place)

    def in_layer(self, blocks: list[Tensor]) -> list[Tensor]:
        """One item per block, in the order of the layer."""
        return [item for _, item in sorted(zip(self.place, blocks, strict=True), key=lambda pair: pair[0])]


def feedback(H: Tensor, block: int, order: str = "natural", damping: float = 0.01) -> Feedback:
    """Factorize H: (n, n) for blocks of so many columns."""
    place = block_order(H.diagonal(), block, order)
    columns = block_columns(place, block, len(H))
    C, notes = cholesky(H, damping, "the layer", columns=columns)
    squares = sum(rows.double().square().sum() for rows in C.split(ROWS))  # the trace of what was factorized
    ridge = ((squares - H.diagonal().sum(dtype=torch.float64)) / len(H)).float()  # more than asked, maybe
    L, D = block_ldl_(C, block)
    return Feedback(place.tolist(), columns, L, D, ridge, notes)


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
