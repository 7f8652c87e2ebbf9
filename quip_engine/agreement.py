r"""How far a model follows an answer that another has given: both read it, nothing is generated (teacher forcing).

    KL_k     = sum_v p(v | x, y_<k) log( p(v | x, y_<k) / q(v | x, y_<k) )
    choice_k = argmax_v q~(v | x, y_<k) / e_kv

x is the prompt and y the answer of the first model, whose predictions are p; q are those of the other. q~ is q after
temperature, top-k and top-p, and e_k the k-th random numbers of the seed, as in ``generate``: choice_k is what the
other model would have said there had it answered with these settings itself. An early difference does not count again
later, since the other model goes on reading y and not what it would have said.

| symbol | here                        |
|--------|-----------------------------|
| x, y   | ``prompt``, ``answer``      |
| p, q   | ``reference``, ``other``    |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from quip_engine.config import GenerationSettings
from quip_engine.errors import fail
from quip_engine.evaluate import kl_rows
from quip_engine.generate import choose

ROWS = 64  # tokens read at once


@dataclass(frozen=True)
class Gap:
    """One token of the answer, and what the other model would have chosen in its place."""

    token: int
    choice: int
    kl: float  # KL(p || q), nats
    p: float  # probabilities of the token at temperature 1
    q: float
    p_choice: float  # and of the other model's choice
    q_choice: float

    @property
    def same(self) -> bool:
        return self.token == self.choice


def predictions(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> Iterator[Tensor]:
    """Log-probabilities at each token of the answer, ``ROWS`` at a time: (rows, vocabulary), float32 on the CPU."""
    ids, known, cache = [*prompt, *answer[:-1]], len(prompt) - 1, DynamicCache(config=model.config)
    for start in [*range(0, known, ROWS), *range(known, len(ids), ROWS)]:
        read = start < known
        part = ids[start : min(start + ROWS, known) if read else start + ROWS]
        logits = _forward(model, part, cache, 1 if read else 0)
        if not read:
            yield logits.float().log_softmax(-1).cpu()


@torch.no_grad()
def _forward(model: PreTrainedModel, ids: Sequence[int], cache: DynamicCache, kept: int) -> Tensor:
    """Logits after the last ``kept`` of these ids (0: after each): (rows, vocabulary)."""
    tokens = torch.tensor([list(ids)], device=model.device)
    output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=kept)
    logits: Tensor = output.logits[0]
    return logits


def gaps(
    reference: Iterable[Tensor], other: Iterable[Tensor], answer: Sequence[int], settings: GenerationSettings
) -> Iterator[Gap]:
    """Token by token, how two models see an answer of the first: both ``predictions`` along it.

    Ends with the shorter of both. Raises ``BAD_SETTING`` where they do not predict over the same vocabulary.
    """
    generator, tokens = torch.Generator().manual_seed(settings.seed), iter(answer)
    for log_p, log_q in zip(reference, other, strict=False):
        if log_p.shape[1] != log_q.shape[1]:
            allowed = f"a model with a vocabulary of {log_p.shape[1]} tokens"
            fail("BAD_SETTING", field="model", value=f"{log_q.shape[1]} tokens", allowed=allowed)
        divergences = kl_rows(log_p, log_q).tolist()
        for p, q, kl, token in zip(log_p, log_q, divergences, tokens, strict=False):
            choice = choose(q, settings, generator)
            seen = [float(row[i].exp()) for i in (token, choice) for row in (p, q)]
            yield Gap(token, choice, max(kl, 0.0), *seen)  # rounding may leave a KL of nothing below zero


def same_share(found: Sequence[Gap]) -> float:
    """Share of the answer's tokens that the other model would have chosen, too."""
    return sum(gap.same for gap in found) / len(found)


def mean_kl(found: Sequence[Gap]) -> float:
    """Nats per token."""
    return sum(gap.kl for gap in found) / len(found)
