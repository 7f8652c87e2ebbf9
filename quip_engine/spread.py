"""Bits across layers: more where an error costs more, the same in all.

    minimise  sum_l N_l 2^(alpha v_l) 4^-b_l      subject to  sum_l N_l b_l <= bits sum_l N_l

v_l is what layer l of N_l weights is worth (``sensitivity``). For free b_l the solution is b_l = alpha v_l / 2 + const.
Layers are not independent, and an error that is no longer small costs more than its square, so that with alpha = 1 the
least of the sum is not the least of the model's loss: alpha damps, and no layer gets less than LOWEST or more than
HIGHEST times the bits of the whole.

| text  | here               |
|-------|--------------------|
| alpha | ``Recipe.spread``  |
| v     | ``values``         |
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch

from quip_engine.codebooks.rates import allocate
from quip_engine.methods.registry import Recipe, offered_bits
from quip_engine.probe.facts import LinearLayer

LOWEST, HIGHEST = 0.6, 2.0
STEPS = 100  # to a bit: rates are whole multiples of this


def layer_bits(
    recipe: Recipe, bits: float, layers: Sequence[LinearLayer], values: Mapping[str, float]
) -> dict[str, float]:
    """Bits per weight of each layer by module path: rates the codebook offers, together ``bits`` or just below.

    A layer without a value, which no gradient reached, gets the least.
    """
    rates = offered_bits(type(recipe.codebook))
    lowest = max(bisect_right(rates, LOWEST * bits) - 1, 0)
    menu = [rate for rate in rates[lowest:] if rate <= max(HIGHEST * bits, rates[lowest])]
    known = [values.get(layer.name, -math.inf) for layer in layers]
    top = max((v for v in known if v > -math.inf), default=0.0)
    sizes = torch.tensor([math.prod(layer.shape) for layer in layers])
    worth = torch.tensor([2 ** (recipe.spread * (v - top)) for v in known], dtype=torch.float64) * sizes
    steps = torch.tensor([round(rate * STEPS) for rate in menu])
    distortion = torch.tensor([4.0**-rate for rate in menu], dtype=torch.float64)
    chosen = allocate(worth, distortion, sizes[:, None] * steps, round(bits * STEPS) * int(sizes.sum()))
    return {layer.name: menu[k] for layer, k in zip(layers, chosen.tolist(), strict=True)}
