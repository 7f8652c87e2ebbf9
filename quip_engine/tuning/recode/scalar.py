"""Codes of single weights chosen again: the nearest level of a grid, or of the set a weight belongs to (``base``)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from quip_engine.codebooks.base import in_units
from quip_engine.codebooks.gaps import decode_gaps, symbols_per_row
from quip_engine.codebooks.grid import Grid, RowGrid
from quip_engine.codebooks.outlier import Outlier
from quip_engine.codebooks.packing import pack_bits, unpack_bits
from quip_engine.products import Packed
from quip_engine.tuning.recode.base import Recoder, recodes


class ScalarRecoder(Recoder):
    """Each weight is a piece."""

    single = True

    def sums(self, layer: Packed, x: Tensor) -> Tensor:
        return x.flatten()

    def recoded(self, layer: Packed, W: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        bits, aim, now = layer.codebook.bits, target.flatten()[chosen], W.flatten()[chosen]
        code, value = self.nearest(layer, aim, chosen // layer.n, chosen % layer.n)
        nearer = (value - aim).abs() < (now - aim).abs()
        codes = unpack_bits(layer.tensors["codes"], bits, layer.n)
        codes.view(-1)[chosen[nearer]] = code[nearer].to(torch.uint8)
        return pack_bits(codes, bits)

    @abstractmethod
    def nearest(self, layer: Packed, x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Codes: (k,) and their values: (k,) nearest to x: (k,) in these rows and columns."""


@recodes(Grid, RowGrid)
class GridRecoder(ScalarRecoder):
    def nearest(self, layer: Packed, x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        quantizer = layer.codebook.quantizer(layer.tensors, layer.n)
        at = row, column // quantizer.group
        step, zero = quantizer.step.expand(layer.m, -1)[at], quantizer.zero.expand(layer.m, -1)[at]
        code = quantizer.code_below(in_units(x, step) + zero + 0.5)
        return code, step * (code - zero)


@recodes(Outlier)
class OutlierRecoder(ScalarRecoder):
    def nearest(self, layer: Packed, x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        form, tensors = layer.codebook, layer.tensors
        symbols = symbols_per_row(layer.n, form.ratio, form.symbol_bits)
        outliers = decode_gaps(unpack_bits(tensors["gaps"], form.symbol_bits, symbols), form.symbol_bits, layer.n)
        levels = form.levels(tensors).view(layer.m, 2, -1)[row, outliers[row, column].long()]
        code = (levels - x[:, None]).abs().argmin(1)
        return code, levels.gather(1, code[:, None])[:, 0]
