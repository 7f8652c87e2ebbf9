"""Mixture of experts with every expert as three ordinary linear layers.

    y_t = sum_{e in top-k(t)}  p_te  down_e( act(gate_e x_t) * up_e x_t )

``transformers`` keeps the experts of a block in two tensors (experts, outputs, inputs), with gate over up in the first.
What looks for linear layers would pass them by, and most weights of the model with them. Here each expert is a child of
its own (``0.gate_proj``, ``0.up_proj``, ``0.down_proj``, as most files name them), so that it is calibrated, quantized,
stored and loaded like any other layer. The router stays as it is, and dense.

| symbol | here                                                       |
|--------|------------------------------------------------------------|
| x      | ``hidden_states`` (tokens, width)                          |
| top-k  | ``top_k_index`` (tokens, k), the experts chosen by a token |
| p      | ``top_k_weights`` (tokens, k)                              |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter, WeightRenaming, WeightTransform

MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}  # names in files -> here


class Projection(nn.Linear):
    """A linear layer around a weight that is there already."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight)

    def reset_parameters(self) -> None:
        """Draw nothing at random."""


class Expert(nn.Module):
    """One expert: down( act(gate x) * up x )."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, activation: nn.Module) -> None:
        """gate, up: (inner, width), down: (width, inner); they become the weights, without a copy."""
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = Projection(gate), Projection(up), Projection(down)
        self.act_fn = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.ModuleList):
    """The experts of one block, called by the block as the fused module was.

    Those in ``see_all`` are shown every token, for calibration; the output stays that of the routing.
    """

    def __init__(self, gate_up: Tensor, down: Tensor, activation: nn.Module) -> None:
        """gate_up: (experts, 2 inner, width), down: (experts, width, inner); views of them become the weights."""
        inner = down.shape[2]
        pairs = zip(gate_up, down, strict=True)
        super().__init__(Expert(both[:inner], both[inner:], last, activation) for both, last in pairs)
        self.see_all: frozenset[int] = frozenset()

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum over the chosen experts: (tokens, width)."""
        out = torch.zeros_like(hidden_states)
        for number in sorted(self.see_all.union(top_k_index.unique().tolist())):
            token, choice = (top_k_index == number).nonzero(as_tuple=True)
            expert = self[number]
            y = expert(hidden_states)[token] if number in self.see_all else expert(hidden_states[token])
            out.index_add_(0, token, (y * top_k_weights[token, choice, None]).to(out.dtype))
        return out


def unfuse(model: nn.Module) -> None:
    """Replace every module of fused experts by ``Experts``."""
    for name, module in list(model.named_modules()):
        weights = dict(module.named_parameters(recurse=False))
        if {"gate_up_proj", "down_proj"} <= weights.keys():
            experts = Experts(weights["gate_up_proj"], weights["down_proj"], module.get_submodule("act_fn"))
            model.set_submodule(name, experts)


def expert_modules(module: nn.Module) -> dict[str, Experts]:
    """The ``Experts`` inside a module by path."""
    return {name: found for name, found in module.named_modules() if isinstance(found, Experts)}


def unfused_names(conversions: list[WeightTransform]) -> list[WeightTransform]:
    """What ``transformers`` does to the names in a file, without the merging of experts.

    Mixtral's w1, w3 and w2 get the names that all others use.
    """
    kept = [c for c in conversions if not (isinstance(c, WeightConverter) and ".experts." in c.target_patterns[0])]
    return kept + [
        WeightRenaming(rf"\.experts\.(\d+)\.{old}\.", rf".experts.\1.{new}.") for old, new in MIXTRAL.items()
    ]
