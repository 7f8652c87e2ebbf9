"""Targets that make good what quantization has done to the inputs of a layer so far.

    W* = argmin_V sum_t w_t |W x_t - V x~_t|^2 + lambda |W - V|^2
       = W + E[w (W (x - x~)) x~^T] (H~ + lambda I)^-1            H~ = E[w x~ x~^T]

x~ is what the layer reads now that those before it are quantized, x what the original reads at the same token. Up to a
constant, what a rounding W^ of W* costs is tr((W^ - W*) H~ (W^ - W*)^T): the old problem with another target. W* is the
ridge regression of what the original puts out on what the layer reads now (as in GPTAQ, arXiv 2504.02692, and Qronos,
arXiv 2505.11695), so errors of earlier layers do not only stop spreading: what can be had back of them is had back.

H~ and the cross term are taken anew before each group of layers that read the same input, with everything before it
already rounded, in the block and before it. Between these passes the original weights wait in the type of their file;
after the last one they go.

| text        | here                          |
|-------------|-------------------------------|
| W*          | ``targets``                   |
| lambda      | DAMPING times mean(diag H~)   |
| x, x~       | inputs in ``original``, ``block`` |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quip_engine.activations import Activations, block_hessians
from quip_engine.architecture import hold_weights, linear_modules, weight_of
from quip_engine.errors import QuipError
from quip_engine.experts import expert_modules
from quip_engine.linalg.hessian import ROWS, Hessian, cholesky_, restore_
from quip_engine.overflow import overflowing

DAMPING = 0.1  # .02 to .1 differ by a hundredth of the KL


class _Read(Exception):
    """The input was seen: nothing after it needs to be computed."""


@dataclass
class Corrected:
    """What layers that read the same input are to be rounded to, by path in the block."""

    H: Tensor  # (n, n) of the inputs as they are now
    targets: dict[str, Tensor] = field(default_factory=dict)  # (m, n) float32; empty where the weights are the targets
    note: str = ""


class Twin:
    """A block and the same as it was, on the states behind the quantized and behind the original blocks."""

    def __init__(
        self, block: nn.Module, index: int, now: Activations, before: Activations, stored: torch.dtype
    ) -> None:
        """``stored``: the type of the weights in their file."""
        self.block, self.index, self.now, self.before = block, index, now, before
        self.stored, self.computed, self.left = stored, next(block.parameters()).dtype, False
        shared = {id(tensor): tensor for tensor in (*block.parameters(), *block.buffers())}
        self.original = copy.deepcopy(block, shared)  # another tree, the same weights

    def groups(self) -> list[list[str]]:
        """Paths of the linear layers that read the same input, every token of it, in the order of computation."""
        few = self.now.first()
        tokens = few.hidden.shape[0] * few.hidden.shape[1]
        experts = tuple(f"{path}." for path in expert_modules(self.block))
        seen = block_hessians(self.block, self.index, few)
        return [names for names, h in seen if h.tokens == tokens and not names[0].startswith(experts)]

    @torch.no_grad()
    def corrected(self, names: list[str], weights: Tensor | None, *, last: bool = False) -> Corrected:
        """Targets of the layers ``names``, not yet quantized, that read one input; ``weights``: (samples, length).

        ``last``: no others are asked for.
        """
        layers = linear_modules(self.original)
        cross = {name: torch.zeros_like(weight_of(layers[name]), dtype=torch.float32) for name in names}
        first = cross[names[0]]
        hessian = Hessian(first.shape[1], first.device)
        total = self.now.hidden.shape[0] * self.now.hidden.shape[1]
        hold_weights(layers, self.computed)
        for place, x, x_now in self._inputs(names[0]):
            w = None if weights is None else weights[place].flatten().to(x.device)
            hessian.add(x_now, w)
            weighted, drift = x_now if w is None else x_now * w[:, None], x - x_now
            for name in names:
                cross[name].addmm_(weight_of(layers[name]) @ drift.T, weighted, alpha=1 / total)
        if last:
            self._leave()
        hold_weights(layers, self.stored)
        modules = {name: weight_of(layers[name]) for name in names}
        del layers
        H = hessian.matrix()
        del hessian
        try:
            damped = cholesky_(H, DAMPING, names[0])
        except QuipError as error:
            return Corrected(H, note=f"inputs that have changed are not made good: {error.message.rstrip('.')}")
        for name, W in modules.items():
            for rows, weights_of_rows in zip(cross[name].split(ROWS), W.split(ROWS), strict=True):
                rows.copy_(torch.cholesky_solve(rows.T, H).T + weights_of_rows)
        restore_(H, damped.diagonal)
        return Corrected(H, cross)

    def advance(self) -> None:
        """Move both states past the block."""
        self._leave()
        self.now.advance(self.block, self.index)

    def _leave(self) -> None:
        """Move the states behind the original block past it, once; it is needed no more."""
        if not self.left:
            hold_weights(linear_modules(self.original), self.computed)
            self.before.advance(self.original, self.index)
            self.original, self.left = nn.Module(), True

    def _inputs(self, name: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Place, original and present input, each (tokens, n) float32, of the layer ``name``, batch by batch."""
        for (place, was), (_, now) in zip(self.before.batches(self.index), self.now.batches(self.index), strict=True):
            x, x_now = _input(self.original, name, was), _input(self.block, name, now)
            while bad := _overflowing(x, place) + _overflowing(x_now, place):
                self.now.put_aside(bad, self.now.block_name(self.index))
                self.before.follow()
                x, x_now = _input(self.original, name, was), _input(self.block, name, now)
            yield place, x, x_now


def _overflowing(x: Tensor, place: slice) -> list[int]:
    """Windows of the place whose inputs x: (tokens, n) hold NaN or infinities."""
    return overflowing(x.view(place.stop - place.start, -1), place.start)


def _input(block: nn.Module, name: str, run: Callable[[nn.Module], Tensor]) -> Tensor:
    found: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0])
        raise _Read

    handle = block.get_submodule(name).register_forward_pre_hook(take)
    try:
        run(block)
    except _Read:
        pass
    finally:
        handle.remove()
    return found[0].reshape(-1, found[0].shape[-1]).float()
