"""Paths of a trellis chosen again: tiles one by one, and strings of single columns (``base``).

A path has a value for every weight of its piece, so a weight that moves takes others along, but only as far as windows
of L bits overlap. The rates of columns stay, so every string has the bits it had.

Strings are searched in units of their scales, where the errors of row i count with r_i^2: as weights they all count
alike.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks.base import in_units
from quip_engine.codebooks.bitstream import pack_string, path_bits
from quip_engine.codebooks.column_codes import tables
from quip_engine.codebooks.column_trellis import WRAP as STRING_WRAP
from quip_engine.codebooks.column_trellis import ColumnTrellis, Sequences
from quip_engine.codebooks.packing import pack_bits, unpack_bits
from quip_engine.codebooks.published_trellis import PublishedTrellis, PublishedTrellisQuantizer, to_path
from quip_engine.codebooks.trellis import LENGTH, TILE, WRAP, Trellis, TrellisQuantizer
from quip_engine.codebooks.trellis_gaps import source_gain
from quip_engine.codebooks.viterbi import best_path
from quip_engine.products import Packed
from quip_engine.tuning.recode.base import Recoder, recodes


class TileRecoder(Recoder):
    """Each tile is a piece, numbered row by row."""

    single = False

    def sums(self, layer: Packed, x: Tensor) -> Tensor:
        return _tiles(x).sum((1, 2))

    def recoded(self, layer: Packed, W: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        table, steps = self.path(layer)
        scale, V = layer.tensors["scale"], table.shape[1]
        aim, now, there = (self.along(_tiles(x)[chosen], V) for x in (target, W, torch.ones_like(W)))
        states = best_path(in_units(aim, scale), table, steps, weights=there.mean(2), wrap=WRAP // V)
        nearer = _distance(table[states] * scale, aim, there) < _distance(now, aim, there)
        codes = layer.tensors["codes"].flatten(0, 1).clone()
        codes[chosen[nearer]] = pack_string(path_bits(states, steps))[nearer]
        return codes.view_as(layer.tensors["codes"])

    @abstractmethod
    def path(self, layer: Packed) -> tuple[Tensor, Tensor]:
        """Values of states: (2^L, V), and bits of steps: (256 / V,)."""

    @abstractmethod
    def along(self, tiles: Tensor, V: int) -> Tensor:
        """Weights in the order of a path: (k, 256 / V, V) of tiles: (k, 16, 16)."""


@recodes(Trellis)
class RowTileRecoder(TileRecoder):
    def path(self, layer: Packed) -> tuple[Tensor, Tensor]:
        quantizer = TrellisQuantizer(layer.codebook, layer.tensors["scale"])
        return quantizer.table, quantizer.steps

    def along(self, tiles: Tensor, V: int) -> Tensor:
        return tiles.reshape(-1, LENGTH // V, V)


@recodes(PublishedTrellis)
class PublishedTileRecoder(TileRecoder):
    def path(self, layer: Packed) -> tuple[Tensor, Tensor]:
        quantizer = PublishedTrellisQuantizer(layer.codebook.bits, layer.tensors["table"], layer.tensors["scale"])
        return quantizer.values, quantizer.steps

    def along(self, tiles: Tensor, V: int) -> Tensor:
        return to_path(tiles.reshape(-1, TILE))


@recodes(ColumnTrellis)
class StringRecoder(Recoder):
    """Each string is a piece: S in a column, numbered column by column."""

    single = False

    def sums(self, layer: Packed, x: Tensor) -> Tensor:
        rates, _ = layer.codebook.places(layer.tensors, layer.m, layer.n)
        return _strings(x * (rates > 0), Sequences.of(layer.codebook.L, layer.m)).sum(1)

    def recoded(self, layer: Packed, W: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        form, tensors, trellis = layer.codebook, layer.tensors, Sequences.of(layer.codebook.L, layer.m)
        rates, starts = form.places(tensors, layer.m, layer.n)
        lengths = trellis.costs(form.side, rates.device)[rates] // trellis.S
        column, part = chosen // trellis.S, chosen % trellis.S
        first = starts[column] + part * lengths[column]
        aim, now, weights = (_strings(x, trellis)[chosen] for x in _in_units(layer, W, target))
        bits = unpack_bits(tensors["codes"][None], 1, 8 * tensors["codes"].numel())[0]
        for rate in rates[column].unique().tolist():
            if rate == 0:
                continue
            some = (rates[column] == rate).nonzero()[:, 0]
            states, value = _searched(trellis, aim[some], weights[some], rate * form.side.rate_step)
            nearer = _distance(value, aim[some], weights[some]) < _distance(now[some], aim[some], weights[some])
            fresh = path_bits(states, trellis.steps(rate * form.side.rate_step).to(bits.device))[nearer]
            bits[first[some[nearer], None] + torch.arange(fresh.shape[1], device=bits.device)] = fresh
        return pack_bits(bits[None], 1)[0]


def _in_units(layer: Packed, W: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Target and W in units of their scales, and what squared errors count: (m, n) each."""
    s, r = layer.codebook.scales_of(layer.tensors, layer.m, layer.n)
    rows = torch.ones(layer.m, 1, device=W.device) if r is None else r[:, None]
    return in_units(target / rows, s), in_units(W / rows, s), rows.square().expand_as(W)


def _searched(trellis: Sequences, aim: Tensor, weights: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """States and what they stand for: (k, T) each, nearest to aim: (k, T)."""
    table, idle = tables(trellis.L, rate, aim.device)
    states = best_path(
        (aim * source_gain(trellis.L, rate))[..., None],
        table[:, None],
        trellis.steps(rate),
        weights=weights.contiguous(),
        idle=idle[:, None],
        wrap=STRING_WRAP,
    )
    return states, trellis.emitted(states, rate)


def _tiles(x: Tensor) -> Tensor:
    """(tiles, 16, 16) of x: (m, n), zeros beyond it."""
    m, n = x.shape
    padded = pad(x, (0, -n % TILE, 0, -m % TILE))
    return padded.view(-1, TILE, padded.shape[1] // TILE, TILE).transpose(1, 2).flatten(0, 1)


def _strings(x: Tensor, trellis: Sequences) -> Tensor:
    """(n S, T) of x: (m, n), zeros below it."""
    return pad(x.T, (0, trellis.S * trellis.T - len(x))).reshape(-1, trellis.T)


def _distance(value: Tensor, aim: Tensor, weights: Tensor) -> Tensor:
    """Of each piece: (k,)."""
    return ((value - aim).square() * weights).flatten(1).sum(1)
