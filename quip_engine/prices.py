"""What the layers of a model cost with one method, at each of its rates.

| measure | what is counted                                                                                        |
|---------|--------------------------------------------------------------------------------------------------------|
| named   | bits as methods name them: codes without scales and signs, unless the method pays those from its rate  |
| stored  | every bit of the weight files, the part of a layer in their headers included                           |

With a codebook that takes any rate, a layer can be given bytes: its rivals store different tensors, so each gets the
rate that makes its bytes the same, and whichever is taken, the file is as large as was planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch

from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.layer import LayerFormat
from quip_engine.methods.mixing import at_rate, offered_rates, resolve_mixed, takes_any_rate
from quip_engine.methods.registry import Recipe
from quip_engine.probe import ModelFacts
from quip_engine.probe.facts import LinearLayer
from quip_engine.sizes import StoredTensor, WeightFiles, entry_bytes, layer_tensors

SPARE = 8  # bytes of a layer in which rivals may differ: digits in headers


class Prices:
    """Costs of the layers of ``facts`` with the method of ``config``; ``embeddings``: how those will be stored."""

    def __init__(self, config: RecipeConfig, facts: ModelFacts, embeddings: LayerFormat | None = None) -> None:
        self.config, self.facts, self.embeddings = config, facts, embeddings
        self.layers = {layer.name: layer for layer in facts.linear_layers}
        self.weights = facts.weights
        self.rates = offered_rates(config)
        self.recipe = resolve_mixed(config)
        self.any_rate = takes_any_rate(self.recipe)
        self._recipes: dict[float, Recipe] = {}
        self._stored: dict[tuple[tuple[int, int], int, float], int] = {}

    @cached_property
    def files(self) -> WeightFiles:
        return WeightFiles(self.facts, self.embeddings)

    @property
    def spare(self) -> int:
        """Bytes to keep free, as they depend on which rivals are taken."""
        return SPARE * len(self.layers) if self.recipe.rivals else 0

    def at(self, bits: float) -> Recipe:
        """The recipe at a rate."""
        if bits not in self._recipes:
            self._recipes[bits] = at_rate(self.config, self.recipe, bits)
        return self._recipes[bits]

    def named(self, layer: LinearLayer, bits: float) -> int:
        return math.ceil(bits * math.prod(layer.shape) - 1e-6)

    def stored(self, layer: LinearLayer, bits: float) -> int:
        known = layer.shape, len(layer.name), bits  # of a name only its length counts
        if known not in self._stored:
            form = self._form(layer, self.at(bits))
            tensors = layer_tensors(layer.name, layer.shape, form) if form else [self._dense(layer)]
            self._stored[known] = 8 * entry_bytes(tensors, self.facts.bytes)
        return self._stored[known]

    def total(self, bits: Mapping[str, float]) -> int:
        """Bytes of all weight files, with these bits for each layer by module path."""
        forms = {name: self._form(self.layers[name], self.at(rate)) for name, rate in bits.items()}
        return self.files.bytes({name: form for name, form in forms.items() if form})

    def fitted(self, name: str, bits: float) -> Recipe:
        """The recipe of a layer in which every rival takes the bytes that the first one takes at this rate."""
        layer, recipe = self.layers[name], self.at(bits)
        if not (self.any_rate and recipe.rivals):
            return recipe
        planned, weights = self._bytes(layer, recipe), math.prod(layer.shape)
        if planned is None:
            return recipe
        rivals = []
        for rival in recipe.rivals:
            taken = self._bytes(layer, rival)
            more = 0.0 if taken is None else 8 * (planned - taken) / weights
            codebook = replace(rival.codebook, bits=min(bits + more, self.rates[-1]))  # type: ignore[call-arg]
            rivals.append(replace(rival, codebook=codebook))
        return replace(recipe, rivals=tuple(rivals))

    def _bytes(self, layer: LinearLayer, recipe: Recipe) -> int | None:
        form = self._form(layer, recipe)
        return entry_bytes(layer_tensors(layer.name, layer.shape, form), self.facts.bytes) if form else None

    def _form(self, layer: LinearLayer, recipe: Recipe) -> LayerFormat | None:
        """How a layer is stored; None: it will be left out, this recipe cannot do it."""
        form = LayerFormat(recipe.transform, recipe.codebook)
        try:
            form.layout(*layer.shape)
        except QuipError as error:
            if error.code != "WIDTH_UNSUPPORTED":
                raise
            return None
        return form

    def _dense(self, layer: LinearLayer) -> StoredTensor:
        return StoredTensor(f"{layer.name}.weight", getattr(torch, self.facts.dtype), layer.shape)
