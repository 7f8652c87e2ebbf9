"""The water-filled trellis: bitshift-trellis sequences down the columns, and a rate for each column.

    x = (target / r) / s_i        code = Viterbi(g(R_i) x, weights r)          W~^ = r s_i table[state] / g(R_i)

Three things set it apart from a trellis on square tiles. A sequence runs down one column, so feedback is scalar and no
error stays unmended within a block. The rate R_i of a column follows the LDL diagonal D_i by reverse water-filling
(``rates``): errors that weigh much get more bits. And where the side that is not rotated has uneven rows or columns,
their scales r and s take part in the allocation instead of being averaged away.

Rows count with r: weights of r^2 would give the least proxy loss, equal weights the least mean of the rows' relative
losses. An output of small scale is not one of small importance, so the truth lies between: r costs 1 to 4 % of the
proxy loss, and on a model with uneven rows a sixth of the KL to the original. Where it is measured what an error of
each output costs (``weigh``), they count with r^2 times that.

A fractional rate is a trellis whose step t takes floor((t + 1) R + 1/2) - floor(t R + 1/2) new bits; a step of none
leaves the state and reads a second table (``column_codes``). Element t is the L-bit window that ends at bit
floor((t + 1) R + 1/2) of its sequence's circular string: any element can be decoded by itself.

The asked rate is the rate of the whole layer: signs of the transform, scales and rates are paid from it.

| symbol | here                                                                               |
|--------|------------------------------------------------------------------------------------|
| R_i    | tensor ``rates``: one for ``group`` columns, in steps (``column_scales``)          |
| s_i    | tensor ``scales``: one for ``group`` columns, relative to ``base``                 |
| r      | tensor ``row_scales``, an option                                                   |
| g(R)   | ``source_gain``: how large the source is best made for the code (``trellis_gaps``) |
| T, S   | rows of a sequence, sequences of a column: about 256 rows each                     |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from quip_engine.codebooks.base import Codebook, Quantizer, codebooks, in_units
from quip_engine.codebooks.bitstream import path_bits, window_states
from quip_engine.codebooks.column_codes import tables
from quip_engine.codebooks.column_scales import ROW_BITS, SHARED, SINGLE, SideInformation, row_codes, row_scales
from quip_engine.codebooks.packing import pack_bits, packed_width, unpack_bits
from quip_engine.codebooks.rates import allocate
from quip_engine.codebooks.shaping import Shaping
from quip_engine.codebooks.trellis_gaps import distortion, source_gain
from quip_engine.codebooks.viterbi import Search
from quip_engine.errors import fail
from quip_engine.parts import option
from quip_engine.transforms.base import TensorSpec
from quip_engine.transforms.importance import Importance

RATES = tuple(round(1 + step / 20, 2) for step in range(81))  # offered
LOWEST = 0.5  # for a layer that pays from the lowest of these for more tensors than others
SEQUENCE = 256  # rows, about
DECODED = 1 << 20  # weights decoded together
WRAP = 64  # steps on either side of the wrap that settle where a circular sequence begins
HEADROOM = 2.0  # of the targets over the weights, which feedback makes larger


@codebooks.register("column-trellis")
@dataclass(frozen=True)
class ColumnTrellis(Codebook):
    """Trellis sequences down the columns, each column at its own rate (water-filled)."""

    shapes: ClassVar[bool] = True
    rates: ClassVar[tuple[float, ...]] = RATES

    bits: float = option(2.0, "bits per weight of the whole layer, all counted", low=LOWEST, high=RATES[-1])
    L: int = option(
        12,
        "bits of the trellis state: 16 takes 15 times as long as 12 for 1 % less, nothing less with two-sided Hessians",
        choices=(8, 10, 12, 14, 16),
    )
    group: int = option(16, "columns that share a rate and a scale", low=1, high=32)
    row_scales: bool = option(False, "give each row a scale, for an output side that is not rotated")

    @property
    def code_bits(self) -> float:
        return self.bits

    @property
    def side(self) -> SideInformation:
        return SINGLE if self.group == 1 else SHARED

    def quick(self) -> ColumnTrellis:
        return replace(self, L=min(self.L, 10))

    def fit(self, W: Tensor, H: Tensor, spent: int = 0) -> Quantizer:
        m, n = W.shape
        return ColumnQuantizer(self, W, H, self.layout(m, n, spent)["codes"].bits)

    def layout(self, m: int, n: int, spent: int = 0) -> dict[str, TensorSpec]:
        groups, side = -(-n // self.group), self.side
        specs = {
            "rates": TensorSpec((packed_width(groups, side.rate_bits),), torch.uint8),
            "scales": TensorSpec((packed_width(groups, side.scale_bits),), torch.uint8),
            "base": TensorSpec((1,), torch.float32),
        }
        if self.row_scales:
            specs["row_scales"] = TensorSpec((packed_width(m, ROW_BITS),), torch.uint8)
        aside = spent + sum(spec.bits for spec in specs.values())
        octets = (math.floor(self.bits * m * n + 1e-6) - aside) // 8
        if octets < 0:
            reason = f"scales, rates and signs of a {m} x {n} layer alone take {aside / (m * n):.2f} bits per weight"
            fail("WIDTH_UNSUPPORTED", name="This layer", reason=reason, remedy="Leave it out, or ask for more bits.")
        return {"codes": TensorSpec((octets,), torch.uint8), **specs}

    def decode(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        trellis, side = Sequences.of(self.L, m), self.side
        rates, starts = self.places(tensors, m, n)
        cost = trellis.costs(side, rates.device)[rates]
        bits = unpack_bits(tensors["codes"][None], 1, int(starts[-1] + cost[-1]))[0]
        W = torch.zeros(n, m, device=bits.device)
        for rate in rates.unique().tolist():
            columns = (rates == rate).nonzero()[:, 0]
            for some in columns.split(max(1, DECODED // m)):
                at = starts[some][:, None] + torch.arange(int(cost[some[0]]), device=bits.device)
                W[some] = trellis.values(bits[at].view(len(some) * trellis.S, -1), rate * side.rate_step, m)
        s, r = self.scales_of(tensors, m, n)
        W = W.mul_(s[:, None]).T
        return W if r is None else W * r[:, None]

    def places(self, tensors: dict[str, Tensor], m: int, n: int) -> tuple[Tensor, Tensor]:
        """The rate of each column, in steps, and the bit its strings start at: (n,) int64 each."""
        rates = unpack_bits(tensors["rates"][None], self.side.rate_bits, -(-n // self.group))[0].long()
        rates = rates.repeat_interleave(self.group)[:n]
        cost = Sequences.of(self.L, m).costs(self.side, rates.device)[rates]
        return rates, cost.cumsum(0) - cost

    def scales_of(self, tensors: dict[str, Tensor], m: int, n: int) -> tuple[Tensor, Tensor | None]:
        """s: (n,) and, where rows have scales, r: (m,)."""
        s = self.side.scales(tensors["scales"], -(-n // self.group), tensors["base"])
        r = row_scales(tensors["row_scales"], m) if self.row_scales else None
        return s.repeat_interleave(self.group)[:n], r


@dataclass(frozen=True)
class Sequences:
    """Sequences of one column: S of T rows, the last one padded."""

    L: int
    S: int
    T: int

    @classmethod
    def of(cls, L: int, m: int) -> Sequences:
        T = -(-m // max(1, round(m / SEQUENCE)))
        return cls(L, -(-m // T), T)

    def steps(self, rate: float) -> Tensor:
        """New bits of each step: (T,) uint8."""
        return _steps(self.T, rate)

    def costs(self, side: SideInformation, device: torch.device | str = "cpu") -> Tensor:
        """Bits of a column at each rate: (2^rate_bits,) int64."""
        rates = torch.arange(2**side.rate_bits, dtype=torch.float64) * side.rate_step
        return ((self.T * rates + 0.5).floor().long() * self.S).to(device)

    def rows(self, x: Tensor) -> Tensor:
        """(S, T) from (m,), zeros at the end."""
        return pad(x, (0, self.S * self.T - len(x))).view(self.S, self.T)

    def values(self, bits: Tensor, rate: float, m: int) -> Tensor:
        """Weights in units of their scales: (C, m), from the bits: (C * S, B) of C columns."""
        if not bits.shape[1]:
            return torch.zeros(len(bits) // self.S, m, device=bits.device)
        states = window_states(bits, self.steps(rate).to(bits.device), self.L)
        return self.emitted(states, rate).view(-1, self.S * self.T)[:, :m]

    def emitted(self, states: Tensor, rate: float, first: int = 0) -> Tensor:
        """What states: (S, t) of the steps from ``first`` on stand for, in units of the source."""
        table, idle = tables(self.L, rate, states.device)
        values = table[states]
        if rate < 1:
            steps = self.steps(rate)[first : first + states.shape[-1]].to(states.device)
            values = torch.where(steps == 0, idle[states], values)
        return values / source_gain(self.L, rate)


class ColumnQuantizer(Quantizer):
    block = 1

    def __init__(self, form: ColumnTrellis, W: Tensor, H: Tensor, budget: int) -> None:
        m, n = W.shape
        self.form, self.side, self.budget, self.shape = form, form.side, budget, (m, n)
        self.trellis = Sequences.of(form.L, m)
        self.rows = self.trellis.T
        self.row_codes = row_codes(W) if form.row_scales else None
        r = torch.ones(m, device=W.device) if self.row_codes is None else row_scales(self.row_codes, m)
        self.r, self.weights = r[:, None], self.trellis.rows(r)
        self.variance = torch.linalg.vector_norm(W / self.r, dim=0).double().square() / m
        self.base = (HEADROOM * self.variance.max().sqrt()).float().reshape(1)
        self.scale_codes: dict[int, int] = {}
        self.rates: list[int] = []
        self.shaping: Shaping | None = None
        self.searches: dict[float, Search] = {}
        self.prepare(list(H.diagonal().split(1)))

    def weigh(self, importance: Importance) -> None:
        scaled = importance.scaled(self.r[:, 0])
        self.weights = self.trellis.rows(scaled.each)
        self.shaping = Shaping(scaled, self.trellis.S, self.trellis.T) if importance.together else None

    def prepare(self, D: list[Tensor]) -> None:
        group, n = self.form.group, self.shape[1]
        importance = torch.stack([d.flatten()[0] for d in D]).double() * self.variance
        value = pad(importance, (0, -n % group)).view(-1, group).sum(1).cpu()
        columns = pad(torch.ones(n, dtype=torch.int64), (0, -n % group)).view(-1, group).sum(1)
        bits = self.trellis.costs(self.side)
        # Rates that a string of at least one state can have; of those that round to the same bits, the first.
        menu = ((bits == 0) | (bits >= self.form.L * self.trellis.S)) & (bits.diff(prepend=bits.new_tensor([-1])) > 0)
        menu = menu.nonzero()[:, 0]
        if len(menu) == 1:
            reason = f"a column of {self.shape[0]} weights is too short for a state of {self.form.L} bits"
            fail("WIDTH_UNSUPPORTED", name="This layer", reason=reason, remedy="Leave it out, or use a smaller L.")
        loss = distortion(self.form.L, (menu * self.side.rate_step).tolist())
        chosen = allocate(value, loss, columns[:, None] * bits[menu], self.budget)
        self.rates = menu[chosen].tolist()

    def round(self, x: Tensor, start: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
        group, trellis = start // self.form.group, self.trellis
        rate = self.rates[group] * self.side.rate_step
        if rate == 0:
            return torch.zeros_like(x), torch.zeros(0, dtype=torch.uint8, device=x.device)
        z = x / self.r
        if group not in self.scale_codes:
            self.scale_codes[group] = self.side.scale_code(z, self.base)
        s = self.base * 2 ** (-self.side.scale_step * self.scale_codes[group])
        source = trellis.rows(in_units(z, s)[:, 0] * source_gain(self.form.L, rate))
        states = self._path(source, rate)
        values = trellis.emitted(states, rate).flatten()[: len(x), None]
        return values * (s * self.r), pack_bits(path_bits(states, trellis.steps(rate).to(x.device)).view(1, -1), 1)[0]

    def _path(self, source: Tensor, rate: float) -> Tensor:
        """States: (S, T) for sequences in units of the source: (S, T)."""
        if rate not in self.searches:
            table, idle = tables(self.form.L, rate, source.device)
            self.searches[rate] = Search(table[:, None], self.trellis.steps(rate), idle=idle[:, None])
        search, gain = self.searches[rate], source_gain(self.form.L, rate)
        if self.shaping is None:
            return search.closed(source[..., None], self.weights, WRAP)
        return self.shaping.path(search, source, lambda s, t: gain * self.trellis.emitted(s, rate, t), WRAP)

    def pack(self, codes: list[Tensor]) -> dict[str, Tensor]:
        device, groups, end = codes[0].device, len(self.rates), 0
        bits = torch.zeros(self.budget, dtype=torch.uint8, device=device)  # what is left at the end stays zero
        cost = self.trellis.costs(self.side).tolist()
        for i, code in enumerate(codes):
            length = cost[self.rates[i // self.form.group]]
            bits[end : end + length] = unpack_bits(code[None], 1, length)[0]
            end += length
        rates = torch.tensor([self.rates], dtype=torch.uint8, device=device)
        scales = torch.tensor([[self.scale_codes.get(g, 0) for g in range(groups)]], dtype=torch.uint8, device=device)
        tensors = {
            "codes": pack_bits(bits[None], 1)[0],
            "rates": pack_bits(rates, self.side.rate_bits)[0],
            "scales": pack_bits(scales, self.side.scale_bits)[0],
            "base": self.base,
        }
        return tensors if self.row_codes is None else tensors | {"row_scales": self.row_codes}


@lru_cache(maxsize=256)
def _steps(T: int, rate: float) -> Tensor:
    return (torch.arange(T + 1) * rate + 0.5).floor().diff().to(torch.uint8)
