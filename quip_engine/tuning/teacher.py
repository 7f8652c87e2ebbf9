"""What the original says, without ever holding it: its last hidden states are kept, its logits made where needed.

    KL(p || q) = sum_v p_v (log p_v - log q_v)        d / d logits of q = q - (1 - a) p - a y

A window of L tokens has L x vocabulary logits, hundreds of times its states. So they are made of some positions at a
time, for both models, and their gradient goes back to the states and the head at once: nothing of that size is kept.

With a = 0 that is the gradient of the KL, to which a way off the original is as bad as its opposite. Some way must be
gone; a little of the text's own next token (Hinton, Vinyals, Dean 2015, section 2) makes it one that texts mind less.

| symbol | here                                       |
|--------|--------------------------------------------|
| p      | the original, ``Teacher``                  |
| q      | the model that is tuned                    |
| y, a   | the next token of the text, ``labels``     |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from quip_engine.activations import Activations, predictions
from quip_engine.skeleton import Skeleton

LOGITS = 2**22  # of each model that exist at once
LEAST_HELD_OUT, SHARE_HELD_OUT = 4, 0.1  # windows


class Teacher:
    """The original on some windows of tokens: (samples, length)."""

    def __init__(self, folder: Path, tokens: Tensor, device: torch.device, labels: float = 0.0) -> None:
        """Knows nothing before ``read``."""
        self.tokens, self.labels = tokens.clone(), labels
        self.held_out = held_out(len(tokens))
        self.skeleton = Skeleton(folder, device)
        self.hidden = torch.empty(0)  # (samples, length, width), what the last block gave

    def read(self) -> Iterator[int]:
        """Run the original over all windows, one block in memory at a time; yields the number of each that is done."""
        self.skeleton.load_outside()
        activations = Activations(self.skeleton, self.tokens)
        for index in range(len(self.skeleton.blocks)):
            activations.advance(self.skeleton.load_block(index), index)
            self.skeleton.release_block(index)
            yield index
        self.hidden = activations.hidden.cpu()
        if activations.places:
            activations.places.follow(self.tokens)

    def divergence(self, student: Skeleton, windows: Tensor, hidden: Tensor, share: float | None = None) -> float:
        """Mean KL over all positions of some windows; ``hidden``: (b, length, width) of the student's last block.

        With ``share``, so many times the gradient goes to ``hidden``, a leaf, and to the student's head.
        """
        tokens, own = self.tokens[windows], self.hidden[windows]
        total, positions = 0.0, tokens.numel()
        for place in chunks(tokens, self.skeleton.model.config.vocab_size):
            with torch.no_grad():
                log_p = predictions(self.skeleton, tokens[:, place], own[:, place].to(hidden.device)).log_softmax(-1)
            with torch.set_grad_enabled(share is not None):
                logits = predictions(student, tokens[:, place], hidden[:, place])
            log_q = logits.detach().log_softmax(-1)
            p = log_p.exp()
            total += float((p * (log_p - log_q)).sum(dtype=torch.float64))
            if share is not None:
                aim = self._aim(p, tokens[:, place.start + 1 : place.stop + 1])
                logits.backward((log_q.exp_() - aim) * (share / positions))
        return total / positions

    def _aim(self, p: Tensor, following: Tensor) -> Tensor:
        """What the student is to say, in the place of ``p``; a window's last position has no token that follows."""
        if self.labels:
            told, y = p[:, : following.shape[1]], following[..., None].to(p.device)
            told.mul_(1 - self.labels).scatter_add_(2, y, torch.full_like(y, self.labels, dtype=p.dtype))
        return p


def held_out(samples: int) -> int:
    """How many of the last windows judge only."""
    return max(LEAST_HELD_OUT, round(SHARE_HELD_OUT * samples))


def chunks(tokens: Tensor, vocabulary: int) -> Iterator[slice]:
    """Positions of tokens: (b, length) whose logits may exist at once."""
    width = max(1, LOGITS // (len(tokens) * vocabulary))
    for start in range(0, tokens.shape[1], width):
        yield slice(start, min(start + width, tokens.shape[1]))
