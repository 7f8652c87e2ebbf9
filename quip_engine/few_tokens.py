"""Experts that calibration text seldom reaches: their Hessians are filled up from all tokens, and they are named.

    H = (T/n) H_routed + (1 - T/n) H_all        for T < n

T tokens were routed to an expert whose first layers have n inputs. Below n, H of the routed tokens is singular: it says
nothing about most directions, and rounding would spoil them at no cost. All tokens of the calibration text are then
shown to the expert as well (the output of the block is still the routed one), and count as much as it lacks. An
expert that no token reached has H_all alone.
"""

from __future__ import annotations

from torch import nn

from quip_engine.activations import Activations, block_hessians
from quip_engine.architecture import weight_of
from quip_engine.experts import expert_modules
from quip_engine.linalg.hessian import Hessian

Groups = list[tuple[list[str], Hessian]]


def warning(index: int, notes: dict[str, str]) -> str:
    """What ``fill_up`` did to a block, in a sentence."""
    experts = dict.fromkeys(path.rpartition(".")[0] for path in notes)
    listed = ", ".join(name.rpartition(".")[2] for name in experts)
    return f"Block {index}: {len(experts)} experts saw fewer tokens than they have inputs ({listed}); use more text."


def fill_up(block: nn.Module, index: int, activations: Activations, groups: Groups) -> dict[str, str]:
    """Complete, in place, the ``groups`` of ``block_hessians`` for experts with few tokens.

    Returns a sentence for each of their linear layers, by path inside the block.
    """
    routed = {names[0]: hessian for names, hessian in groups}
    notes: dict[str, str] = {}
    shares: dict[str, float] = {}
    modules = expert_modules(block)
    for path, experts in modules.items():
        few = set()
        for number in range(len(experts)):
            layers = [f"{path}.{number}.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
            tokens = routed[layers[0]].tokens if layers[0] in routed else 0
            n = weight_of(block.get_submodule(layers[0])).shape[1]
            if tokens < n:
                few.add(number)
                sentence = f"its expert saw {tokens} tokens, fewer than {n} inputs: H is filled up from all tokens"
                notes |= dict.fromkeys(layers, sentence)
                shares |= dict.fromkeys(layers, tokens / n)
        experts.see_all = frozenset(few)
    if not notes:
        return notes
    try:
        from_all = block_hessians(block, index, activations, among=notes)
    finally:
        for experts in modules.values():
            experts.see_all = frozenset()
    for names, hessian in from_all:  # one for all gate and up, which now read the same tokens
        for first in routed.keys() & set(names):
            routed[first].blend_(hessian, shares[first])
        if never := [name for name in names if shares[name] == 0]:
            groups.append((never, hessian))
    return notes
