"""Hidden states between blocks, one layer's inputs at a time, and the Hessians of a block.

    H = E[w x x^T]    over the inputs x of a linear layer        (QuIP section 3, QuIP# section 4; there w = 1)

Inputs of a block come from the already quantized blocks before it; within a block every H is taken from the block as
it was, in one pass, as in QuIP. Layers that are fed the same tensor (q, k, v; gate, up) share one H: which ones do is
observed, not assumed. A token counts in it with the mean of what those layers' errors at this token cost
(``sensitivity``), or as one like all others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quip_engine.architecture import linear_modules
from quip_engine.linalg.hessian import Hessian
from quip_engine.overflow import History, Places, overflowing
from quip_engine.skeleton import Skeleton

NO_WEIGHTS: Mapping[str, Tensor] = {}
# Tokens of one forward pass: enough to fill the cores of a device, small beside the weights.
BATCH_TOKENS = {"cpu": 256, "cuda": 8192}


class BlockCall:
    """The arguments a model hands to one of its blocks, for batches of one size."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        out = block(hidden, *self._args, **self._kwargs)
        return out[0] if isinstance(out, tuple) else out


class _StandIn(nn.Module):
    """In the place of a block, as far as the model asks the block for its attributes."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not a child: the model must not see it twice

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)  # sliding or full attention: the model asks the block


class _Answer(_StandIn):
    """Has hidden states of its own, whatever it is called with."""

    def __init__(self, block: nn.Module, hidden: Tensor) -> None:
        super().__init__(block)
        self.__dict__["hidden"] = hidden

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        hidden: Tensor = self.__dict__["hidden"]
        return hidden


class _Recorder(_StandIn):
    """Keeps what it was called with and hands the hidden states on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.__dict__["call"] = None
        self.__dict__["hidden"] = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        self.__dict__["call"] = BlockCall(args[1:], kwargs)
        self.__dict__["hidden"] = hidden
        return hidden


@contextmanager
def _in_place_of_blocks(skeleton: Skeleton, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    originals = list(skeleton.blocks)
    try:
        for index, stand_in in enumerate(stand_ins):
            skeleton.blocks[index] = stand_in
        yield
    finally:
        for index, block in enumerate(originals):
            skeleton.blocks[index] = block


@torch.no_grad()
def record_calls(skeleton: Skeleton, tokens: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """Run embeddings and the model's own plumbing once for tokens: (batch, length).

    Returns the input of the first block (batch, length, width) and, for every block, how the model calls it (masks,
    rotary tables, which depend on the kind of block). Nothing of a model's plumbing is repeated here.
    """
    recorders = [_Recorder(block) for block in skeleton.blocks]
    with _in_place_of_blocks(skeleton, recorders):
        skeleton.model.get_decoder()(tokens.to(skeleton.device), use_cache=False)
    return recorders[0].__dict__["hidden"], [recorder.__dict__["call"] for recorder in recorders]


def predictions(skeleton: Skeleton, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Logits: (batch, length, vocabulary) float32 for tokens: (batch, length), differentiable in ``hidden``.

    ``hidden``: (batch, length, width), what the last block gave. Norms and head must be loaded.
    """
    with _in_place_of_blocks(skeleton, [_Answer(block, hidden) for block in skeleton.blocks]):
        logits: Tensor = skeleton.model(tokens.to(skeleton.device), use_cache=False).logits
    return logits.float()


class Activations:
    """Hidden states of all calibration windows, (samples, length, width), moved on block by block."""

    def __init__(
        self,
        skeleton: Skeleton,
        tokens: Tensor,
        hidden: Tensor | None = None,
        *,
        at_once: int | None = None,
        history: History | None = None,
    ) -> None:
        """``hidden``: states saved at a later block, with the ``history`` of their places; without it they start at the
        embeddings. Raises ``ACTIVATION_OVERFLOW``, as does whatever goes through a block.

        ``at_once``: tokens of one pass, ``BATCH_TOKENS`` by default; one window in any case.
        """
        self.places: Places | None = Places(len(tokens), history)
        self._prefix = skeleton.prefix
        self._batch = max(1, (at_once or BATCH_TOKENS[skeleton.device.type]) // tokens.shape[1])
        self._calls: dict[int, list[BlockCall]] = {}
        batches = tokens.split(self._batch)
        for batch in {len(batch): batch for batch in batches}.values():
            first, self._calls[len(batch)] = record_calls(skeleton, batch)
        if hidden is None:  # all of it once, filled piece by piece: it may be most of the memory
            hidden = first.new_empty(len(tokens), *first.shape[1:])
            for batch, place in zip(batches, hidden.split(self._batch), strict=True):
                place.copy_(record_calls(skeleton, batch)[0])
        self.hidden = hidden.to(skeleton.device)
        self.put_aside([k for k, window in enumerate(self.hidden) if overflowing(window[None])], "the embeddings")

    def twin(self, hidden: Tensor | None = None) -> Activations:
        """The same windows on their own way; ``hidden``: where they are, if not here."""
        other = copy.copy(self)
        other.hidden = self.hidden.clone() if hidden is None else hidden.to(self.hidden)
        return other

    def first(self) -> Activations:
        """The first batch alone, whatever comes of it."""
        few = self.twin(self.hidden[: self._batch])
        few.places = None
        return few

    def full_call(self, index: int) -> tuple[int, BlockCall]:
        """Windows of a full batch, and how the model calls a block on so many."""
        size = min(self._batch, len(self.hidden))
        return size, self._calls[size][index]

    def calls(self, index: int) -> Iterator[tuple[slice, BlockCall]]:
        """For each batch its place and how the model calls a block on it."""
        self.follow()
        for start in range(0, len(self.hidden), self._batch):
            place = slice(start, min(start + self._batch, len(self.hidden)))
            yield place, self._calls[place.stop - place.start][index]

    def batches(self, index: int) -> Iterator[tuple[slice, Callable[[nn.Module], Tensor]]]:
        """For each batch its place and a function that runs a block on it."""
        for place, call in self.calls(index):
            yield place, partial(call, hidden=self.hidden[place])

    @torch.no_grad()
    def advance(self, block: nn.Module, index: int) -> None:
        """Replace the inputs of a block by its outputs."""
        self.outputs(block, index, self.hidden)

    @torch.no_grad()
    def outputs(self, block: nn.Module, index: int, into: Tensor) -> Tensor:
        """What a block gives, written to ``into``: (samples, length, width)."""
        bad = []
        for place, run in self.batches(index):
            into[place] = run(block)
            bad += overflowing(into[place], place.start)
        if self.put_aside(bad, self.block_name(index)) and self.places:
            self.places.follow(into)
        return into

    def put_aside(self, places: list[int], name: str) -> bool:
        """Let other windows stand at ``places``, which overflow in ``name``; whether any had to."""
        if not places or self.places is None:
            return False
        self.places.put_aside(places, name)
        self.follow()
        return True

    @property
    def history(self) -> History:
        """Of the windows at their places."""
        return self.places.history if self.places else {}

    def follow(self) -> None:
        """Let the states be those of the windows that stand at their places."""
        if self.places:
            self.places.follow(self.hidden)

    def block_name(self, index: int) -> str:
        """Module path of a block."""
        return f"{self._prefix}.{index}"


@torch.no_grad()
def block_hessians(
    block: nn.Module,
    index: int,
    activations: Activations,
    among: Container[str] | None = None,
    weights: Mapping[str, Tensor] = NO_WEIGHTS,
) -> list[tuple[list[str], Hessian]]:
    """One Hessian per shared input of a block: [(paths of the linear layers that read it, H)].

    ``among``: only of the layers at these paths. ``weights``: (samples, length) of each token for layers by path; a
    layer without, or that reads some of the tokens only, takes those it reads as alike.
    """
    groups: list[tuple[list[str], Hessian]] = []
    of_layer: dict[str, int] = {}  # number of its group
    read: dict[int, tuple[Tensor, list[str]]] = {}  # inputs of this batch, kept alive so that an id stays theirs

    def take(x: Tensor, names: list[str], place: slice) -> None:
        number = of_layer.setdefault(names[0], len(groups))
        if number == len(groups):
            groups.append(([], Hessian(x.shape[-1], device=x.device)))
        members, hessian = groups[number]
        for name in names:  # all read the very same tensor
            if of_layer.setdefault(name, number) == number and name not in members:
                members.append(name)
        hessian.add(x, _token_weights(weights, names, place, x))

    def hook(name: str, x: Tensor) -> None:
        read.setdefault(id(x), (x, []))[1].append(name)

    handles = [
        module.register_forward_pre_hook(lambda _module, args, name=name: hook(name, args[0]))
        for name, module in linear_modules(block).items()
        if among is None or name in among
    ]
    try:
        for place, run in activations.batches(index):
            while activations.put_aside(overflowing(run(block), place.start), activations.block_name(index)):
                read.clear()
            for x, names in read.values():
                take(x, names, place)
            read.clear()
    finally:
        for handle in handles:
            handle.remove()
    return groups


def _token_weights(weights: Mapping[str, Tensor], names: list[str], place: slice, x: Tensor) -> Tensor | None:
    """The mean weight of each token of x: (..., n) over the layers ``names`` that read it."""
    found = [weights[name][place].flatten() for name in names if name in weights]
    if not found or len(found[0]) != x.numel() // x.shape[-1]:
        return None
    return torch.stack(found).mean(0).to(x.device)
