"""A layer whose codes move while it is trained: the V step of PV-Tuning (arXiv 2405.14852, section 3).

    B  <-  B - rate rms(W~) G / sqrt(v)              v_ij = r_i c_j / mean r
    codes of chosen pieces  <-  nearest to B         |change of W~| <= trust |W~|

G is the gradient by the decoded weights W~, in the basis of the codes. A step is far smaller than the distance between
codes, so steps add up in B, where the weights would be, and a code follows once B has come nearer to another one: of
the pieces for which that is so, those farthest from B first, until the step has changed W~ by as much as is allowed.
All of them at once would go too far, since the gradient holds for small changes only.

B begins at the original weight where its code is the nearest to it, so that a code next to a border crosses it at
little cost; elsewhere (codes chosen with feedback, or for other targets, and paths of a trellis) at W~. A search of all
paths would take as long as several passes through the model, so they take turns.

The second moment of the gradient is kept as the product of its means over rows and columns, which it is but for noise,
gradients being sums of outer products. So it takes no room, and a few steps are enough to know it.

| paper                  | here                                                    |
|------------------------|---------------------------------------------------------|
| buffers                | ``buffer``, B: (m, n)                                   |
| Adam, betas 0 / 0.95   | v; r, c: ``rows``: (m,), ``columns``: (n,)              |
| trust ratio            | ``TRUST``                                               |
| tau, subspace of codes | pieces whose turn it is: ``TURNS``; those that are trusted |
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quip_engine.linear import QuantizedLinear
from quip_engine.products import Packed
from quip_engine.tuning.continuous import TunedLinear
from quip_engine.tuning.recode import recoder_of

RATE = 0.05  # of a step in B, relative to the rms of W~; measured
TRUST = 0.03  # change of W~ in a step, relative to it; .01 goes a third of the way, .06 back and forth; measured
TURNS = 4  # steps in which every path has its turn
BETA = 0.95
LEAST = 1e-30  # root of a second moment: rows and columns without a gradient stay where they are


class CodedLinear(TunedLinear):
    """A tuned layer with a gradient by its decoded weights, and codes that follow it."""

    def __init__(self, packed: QuantizedLinear, original: Tensor) -> None:
        """``original``: (m, n), the weight that was quantized. The codebook has a recoder."""
        super().__init__(packed)
        recoder = recoder_of(packed.format.codebook)
        assert recoder is not None
        self.recoder = recoder
        m, n = self.dense.shape
        self.gradient = torch.zeros_like(self.dense)  # by W^_0
        self.rows, self.columns = self.dense.new_zeros(m), self.dense.new_zeros(n)
        self.buffer = self._beginning(packed.maps().weight(original.float()))

    @property
    def codes(self) -> Tensor:
        return self.source[0].get_parameter("codes").data

    def take_codes(self, codes: Tensor) -> None:
        """Compute with these from now on."""
        self.codes.copy_(codes)
        if not self.decoded:
            self.dense = self.source[0].dequantize().detach()

    @torch.no_grad()
    def advance(self, step: int, pace: float) -> None:
        """One V step, the ``step``-th from 0 on, with what ``gradient`` has gathered; ``pace``: 0 to 1."""
        layer = self._layer()
        W = layer.codebook.decode(layer.tensors, layer.m, layer.n)
        self.buffer -= (pace * RATE * W.square().mean().sqrt()) * self._normalized(step)
        distance = self.recoder.sums(layer, (self.buffer - W).square())
        turns = 1 if self.recoder.single else TURNS
        turn = torch.arange(step % turns, len(distance), turns, device=W.device)
        codes = self._trusted(layer, W, distance, turn, pace * TRUST)
        if codes is not None:
            self.take_codes(codes)

    def rehearse(self) -> None:
        """A V step as long as any, that changes nothing."""
        moments = self.rows.clone(), self.columns.clone()
        self.advance(0, 0.0)
        for kept, moment in zip(moments, (self.rows, self.columns), strict=True):
            moment.copy_(kept)

    def _trusted(self, layer: Packed, W: Tensor, distance: Tensor, turn: Tensor, trust: float) -> Tensor | None:
        """New codes that change W: (m, n) by a share of ``trust`` at most; None where none change."""
        codes = self.recoder.recoded(layer, W, self.buffer, turn)
        moved = self.recoder.sums(layer, (self._with(layer, codes) - W).square())
        largest = distance.masked_fill(moved == 0, -1).argsort(descending=True, stable=True)
        count = int((moved[largest].cumsum(0) <= trust**2 * W.square().sum()).sum().clamp_max((moved > 0).sum()))
        if count == int((moved > 0).sum()):
            return codes
        return self.recoder.recoded(layer, W, self.buffer, largest[:count].sort().values) if count else None

    def _normalized(self, step: int) -> Tensor:
        """The gradient in the basis of the codes: (m, n), by the root of its second moment."""
        leaf = torch.zeros_like(self.gradient).requires_grad_()
        with torch.enable_grad():
            (G,) = torch.autograd.grad(self.source[0].maps().inverse(leaf), leaf, self.gradient)
        squares = G.square()
        self.rows.lerp_(squares.mean(1), 1 - BETA)
        self.columns.lerp_(squares.mean(0), 1 - BETA)
        rows, columns = (moment / (1 - BETA ** (step + 1)) for moment in (self.rows, self.columns))
        r, c, mean = (moment.sqrt().clamp_min(LEAST) for moment in (rows, columns, rows.mean()))
        return G / r[:, None] / c * mean

    def _matrix(self) -> Tensor:
        W = super()._matrix()
        if torch.is_grad_enabled():
            W = W if W.requires_grad else W.detach().requires_grad_()
            W.register_hook(self._add)
        return W

    def _add(self, gradient: Tensor) -> None:
        self.gradient += gradient

    def _beginning(self, original: Tensor) -> Tensor:
        """B: (m, n), of the original weights in the basis of the codes."""
        layer = self._layer()
        W = layer.codebook.decode(layer.tensors, layer.m, layer.n)
        if not self.recoder.single:
            return W.clone()
        everything = torch.arange(W.numel(), device=W.device)
        nearest = self._with(layer, self.recoder.recoded(layer, W, original, everything))
        return torch.where(nearest == W, original, W)

    def _layer(self) -> Packed:
        """Codes and floats as they are now."""
        packed = self.source[0].packed()
        floats = {name: self.get_parameter(name).detach() for name in self.decoded}
        return replace(packed, tensors={**packed.tensors, **floats})

    @staticmethod
    def _with(layer: Packed, codes: Tensor) -> Tensor:
        """W~: (m, n) of other codes."""
        return layer.codebook.decode({**layer.tensors, "codes": codes}, layer.m, layer.n)
