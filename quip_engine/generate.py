"""Text from a model, token by token: seeded, stoppable, with the probability of every token.

    prompt -> ids -> cache of keys and values -> logits -> p = softmax(logits / T), cut to top-k and top-p -> next id

The next id is drawn on the CPU from one seeded generator, by the exponential race argmax_v p_v / e_v. Two models that
are given the same seed see the same e, so they differ only where their predictions do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, StaticCache

from quip_engine.config import GenerationSettings
from quip_engine.detokenize import Detokenizer
from quip_engine.prompts import Prompt


@dataclass(frozen=True)
class Token:
    """A generated token, the probability the model gave it (at temperature 1) and when it came (since the start)."""

    id: int
    probability: float
    seconds: float


@dataclass(frozen=True)
class Piece:
    """Text that can be shown, and the tokens it took. The last piece says why it is the last:

    ``eos`` (the model ended), ``length`` (max_tokens), ``context`` (no room left), ``stopped``.
    """

    text: str
    tokens: tuple[Token, ...]
    end: str = ""


@dataclass(frozen=True)
class Answer:
    """A finished answer; ``tokens_per_second`` is that of decoding, without the prompt (None below two tokens)."""

    text: str
    tokens: tuple[Token, ...]
    end: str

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Answer:
        listed = list(pieces)
        text = "".join(piece.text for piece in listed)
        return cls(text, tuple(t for piece in listed for t in piece.tokens), listed[-1].end)

    @property
    def first_token_seconds(self) -> float | None:
        return self.tokens[0].seconds if self.tokens else None

    @property
    def tokens_per_second(self) -> float | None:
        if len(self.tokens) < 2:
            return None
        return (len(self.tokens) - 1) / max(self.tokens[-1].seconds - self.tokens[0].seconds, 1e-9)


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: GenerationSettings,
    stop: threading.Event | None = None,
    *,
    compiled: bool = False,
) -> Iterator[Piece]:
    """Continue a prompt. Ends within one token of ``stop`` being set; the last piece, and only it, has an ``end``.

    ``compiled`` runs single tokens through ``CompiledSteps``.
    """
    started = time.perf_counter()
    stop = stop or threading.Event()
    generator = torch.Generator().manual_seed(settings.seed)
    detokenizer = Detokenizer(tokenizer, prompt.ids)
    ends = end_tokens(model, tokenizer)
    room = settings.max_tokens if prompt.context is None else min(settings.max_tokens, prompt.context - len(prompt.ids))
    steps = (CompiledSteps if compiled else Steps)(model, len(prompt.ids) + room)
    waiting: list[Token] = []
    ids = list(prompt.ids)
    for _ in range(room):
        if stop.is_set():
            yield Piece(detokenizer.rest(), tuple(waiting), "stopped")
            return
        logits = steps.logits(ids)
        chosen = choose(logits, settings, generator)
        if chosen in ends:
            yield Piece(detokenizer.rest(), tuple(waiting), "eos")
            return
        probability = float(logits.softmax(-1)[chosen])
        waiting.append(Token(chosen, probability, time.perf_counter() - started))
        if text := detokenizer.push(chosen):
            yield Piece(text, tuple(waiting))
            waiting = []
        ids = [chosen]
    yield Piece(detokenizer.rest(), tuple(waiting), "length" if room == settings.max_tokens else "context")


class Steps:
    """A model and the cache of what it has read so far."""

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        """``length``: tokens there will be at most."""
        self.model = model
        self.cache: Cache = DynamicCache(config=model.config)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> Tensor:
        """Logits of the token after ``ids``: (vocabulary,) float32 on the CPU; adds ``ids`` to the cache."""
        tokens = torch.tensor([ids], device=self.model.device)
        output = self.forward(len(ids))(input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float().cpu()

    def forward(self, count: int) -> Callable[..., Any]:
        """The model for so many tokens at once."""
        return self.model


class CompiledSteps(Steps):
    """The same with a cache of fixed size and single tokens compiled (on a GPU into CUDA graphs).

    Takes a while at the first token, and saves the cost of launching each operation by itself at all others. Not
    measured on a GPU yet.
    """

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        super().__init__(model, length)
        self.cache = StaticCache(config=model.config, max_cache_len=length)
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        self._compiled = torch.compile(model, mode=mode, dynamic=False)

    def forward(self, count: int) -> Callable[..., Any]:
        return self._compiled if count == 1 else self.model


def choose(logits: Tensor, settings: GenerationSettings, generator: torch.Generator) -> int:
    """The next token from logits: (vocabulary,)."""
    if settings.temperature == 0:
        return int(logits.argmax())
    logits = logits / settings.temperature
    if 0 < settings.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(settings.top_k).values[-1], -torch.inf)
    p = logits.softmax(-1)
    if settings.top_p < 1:
        ordered, order = p.sort(descending=True, stable=True)
        beyond = ordered.cumsum(0) - ordered >= settings.top_p  # the token that crosses top_p stays
        p[order[beyond]] = 0
    race = torch.empty_like(p).exponential_(generator=generator)
    return int((p / race).argmax())


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer: those of generation_config.json and of the tokenizer."""
    listed = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = listed if isinstance(listed, list) else [listed]
    return {i for i in [*ends, tokenizer.eos_token_id] if isinstance(i, int)}
