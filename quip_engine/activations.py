"""Hidden states between blocks, one layer's inputs at a time, and the Hessians of a block.

    H = E[x x^T]    over the inputs x of a linear layer        (QuIP section 3, QuIP# section 4)

Inputs of a block come from the already quantized blocks before it; within a block every H is taken from the block as
it was, in one pass, as in QuIP. Layers that are fed the same tensor (q, k, v; gate, up) share one H: which ones do is
observed, not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quip_engine.architecture import linear_modules
from quip_engine.linalg.hessian import Hessian
from quip_engine.skeleton import Skeleton

# Tokens of one forward pass: enough to fill the cores of a device, small beside the weights.
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


class BlockCall:
    """The arguments a model hands to one of its blocks, for batches of one size."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        out = block(hidden, *self._args, **self._kwargs)
        return out[0] if isinstance(out, tuple) else out


class _Recorder(nn.Module):
    """Stands in for a block: keeps what it was called with and hands the hidden states on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not a child: the model must not see it twice
        self.__dict__["call"] = None
        self.__dict__["hidden"] = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        self.__dict__["call"] = BlockCall(args[1:], kwargs)
        self.__dict__["hidden"] = hidden
        return hidden

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)  # sliding or full attention: the model asks the block


@torch.no_grad()
def record_calls(skeleton: Skeleton, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """Run embeddings and the model's own plumbing once for tokens: (batch, length).

    Returns the input of the first block (batch, length, width) and, for every block, how the model calls it (masks,
    rotary tables, which depend on the kind of block). Nothing of a model's plumbing is repeated here.
    """
    blocks = skeleton.blocks
    originals = list(blocks)
    recorders = [_Recorder(block) for block in originals]
    try:
        for index, recorder in enumerate(recorders):
            blocks[index] = recorder
        skeleton.model.get_decoder()(tokens.to(skeleton.device), use_cache=False)
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block
    return recorders[0].__dict__["hidden"], [recorder.__dict__["call"] for recorder in recorders]


class Activations:
    """Hidden states of all calibration windows, (samples, length, width), moved on block by block."""

    def __init__(self, skeleton: Skeleton, tokens: Tensor, hidden: Tensor | None = None) -> None:
        """``hidden``: states saved at a later block; without it they start at the embeddings."""
        self._batch = max(1, BATCH_TOKENS[skeleton.device.type] // tokens.shape[1])
        self._calls: dict[int, list[BlockCall]] = {}
        parts = []
        for batch in tokens.split(self._batch):
            if hidden is None or len(batch) not in self._calls:
                first, self._calls[len(batch)] = record_calls(skeleton, batch)
                if hidden is None:
                    parts.append(first)
        self.hidden = torch.cat(parts) if hidden is None else hidden.to(skeleton.device)

    def batches(self, index: int) -> Iterator[tuple[slice, Callable[[nn.Module], Tensor]]]:
        """For each batch its place and a function that runs a block on it."""
        for start in range(0, len(self.hidden), self._batch):
            place = slice(start, min(start + self._batch, len(self.hidden)))
            call = self._calls[place.stop - place.start][index]
            yield place, partial(call, hidden=self.hidden[place])

    @torch.no_grad()
    def advance(self, block: nn.Module, index: int) -> None:
        """Replace the inputs of a block by its outputs."""
        for place, run in self.batches(index):
            self.hidden[place] = run(block)


@torch.no_grad()
def block_hessians(
    block: nn.Module, index: int, activations: Activations, among: Container[str] | None = None
) -> list[tuple[list[str], Hessian]]:
    """One Hessian per shared input of a block: [(paths of the linear layers that read it, H)].

    ``among``: only of the layers at these paths.
    """
    groups: list[tuple[list[str], Hessian]] = []
    of_layer: dict[str, Hessian] = {}
    seen: dict[int, tuple[Tensor, Hessian]] = {}  # inputs of this batch, kept alive so that an id stays theirs

    def hook(name: str, x: Tensor) -> None:
        if id(x) not in seen:
            if name not in of_layer:
                groups.append(([], Hessian(x.shape[-1], device=x.device)))
                of_layer[name] = groups[-1][1]
                groups[-1][0].append(name)
            of_layer[name].add(x)
            seen[id(x)] = (x, of_layer[name])
        elif name not in of_layer:  # the very tensor another layer reads
            of_layer[name] = seen[id(x)][1]
            next(names for names, hessian in groups if hessian is of_layer[name]).append(name)

    handles = [
        module.register_forward_pre_hook(lambda _module, args, name=name: hook(name, args[0]))
        for name, module in linear_modules(block).items()
        if among is None or name in among
    ]
    try:
        for _place, run in activations.batches(index):
            run(block)
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return groups
