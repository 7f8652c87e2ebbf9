"""What quantization cost: perplexity, and the distance to the original's predictions.

    perplexity = exp( mean over windows of  1/(L-1) sum_t -log q(x_t | x_<t) )
    KL         =      mean over windows of  1/(L-1) sum_t sum_v p(v | x_<t) log( p(v | x_<t) / q(v | x_<t) )
    increase   =      mean over windows of  1/(L-1) sum_t log( p(x_t | x_<t) / q(x_t | x_<t) )

The convention of the QuIP, QuIP# and QTIP papers: the text is tokenized once and cut into windows of L tokens that do
not overlap; the tail is dropped; each window starts from nothing and scores its last L - 1 tokens. The number depends
on L, so L is stated beside it. Windows are the sample for standard errors; s(exp x) = exp(x) s(x) for small s. The
ratio of both perplexities is exp(increase): both models read the same windows, so its error is far below theirs.

| symbol | here                                    |
|--------|-----------------------------------------|
| L      | ``seqlen``                              |
| q, p   | the model under test, and the original  |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quip_engine.errors import fail
from quip_engine.files import existing_file

BUNDLED = Path(__file__).parents[1] / "assets" / "evaluation.txt"
ROWS = 256  # positions whose log-probabilities exist at once, so that a large vocabulary fits


@dataclass(frozen=True)
class Estimate:
    """A mean over windows and its standard error (None for a single window)."""

    value: float
    error: float | None

    @classmethod
    def of(cls, samples: Sequence[float]) -> Estimate:
        n, mean = len(samples), math.fsum(samples) / len(samples)
        if n == 1:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (n - 1) / n))

    def exp(self) -> Estimate:
        value = math.exp(min(self.value, 700.0))  # a broken model still gets a finite number
        return Estimate(value, None if self.error is None else value * self.error)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one text; those after ``perplexity`` compare with the original: None without one."""

    windows: int
    seqlen: int
    perplexity: Estimate
    original_perplexity: Estimate | None = None
    ratio: Estimate | None = None  # of the two perplexities
    mean_kl: Estimate | None = None  # KL(original || model), nats per token
    top1_agreement: Estimate | None = None  # share of positions where both favour the same token

    @property
    def tokens(self) -> int:
        """Tokens that were scored."""
        return self.windows * (self.seqlen - 1)

    def figures(self) -> dict[str, float | None]:
        """Every figure and, as ``NAME_error``, its standard error."""
        found: dict[str, float | None] = {}
        for name in FIGURES:
            estimate: Estimate | None = getattr(self, name)
            found[name] = None if estimate is None else estimate.value
            found[f"{name}_error"] = None if estimate is None else estimate.error
        return found


FIGURES = ("perplexity", "original_perplexity", "ratio", "mean_kl", "top1_agreement")


@dataclass(frozen=True)
class Scores:
    """One window, token by token: each (seqlen - 1,) on the CPU. Those of the original are empty without one."""

    loss: Tensor  # -log q(x_t), float64
    choice: Tensor  # the model's likeliest token
    confidence: Tensor  # and the probability it gives it
    original_loss: Tensor
    original_choice: Tensor
    original_confidence: Tensor
    kl: Tensor  # float64

    @property
    def agree(self) -> Tensor:
        """Whether both favour the same token."""
        return self.choice == self.original_choice


@dataclass
class Running:
    """The figures of the windows that were added so far."""

    seqlen: int
    losses: list[float] = field(default_factory=list)  # means of one window each
    original_losses: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def add(self, scores: Scores) -> None:
        self.losses.append(float(scores.loss.mean()))
        if len(scores.kl):
            self.original_losses.append(float(scores.original_loss.mean()))
            self.divergences.append(float(scores.kl.mean()))
            self.agreements.append(float(scores.agree.double().mean()))

    def evaluation(self) -> Evaluation:
        count, perplexity = len(self.losses), Estimate.of(self.losses).exp()
        if not self.original_losses:
            return Evaluation(count, self.seqlen, perplexity)
        increases = [q - p for q, p in zip(self.losses, self.original_losses, strict=True)]
        return Evaluation(
            count,
            self.seqlen,
            perplexity,
            Estimate.of(self.original_losses).exp(),
            Estimate.of(increases).exp(),
            Estimate.of(self.divergences),
            Estimate.of(self.agreements),
        )


def text_file(source: str) -> Path:
    """The file of an evaluation text: ``bundled``, or a path. Raises ``NOT_FOUND`` and ``BAD_PATH``."""
    return BUNDLED if source == "bundled" else existing_file(source)


def windows(tokenizer: PreTrainedTokenizerBase, text: str, seqlen: int, source: str = "The text") -> Tensor:
    """Token ids: (windows, seqlen). Raises ``EVAL_EMPTY`` (naming ``source``) where not one window fills."""
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
    count = len(ids) // seqlen
    if count == 0:
        fail("EVAL_EMPTY", source=source, tokens=len(ids), seqlen=seqlen)
    return ids[: count * seqlen].view(count, seqlen)


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Tensor, name: str) -> None:
    """Predictions can be compared only over the same tokens: (windows, seqlen). Raises ``BAD_SETTING``."""
    if not windows(tokenizer, text, tokens.shape[1])[: len(tokens)].equal(tokens):
        fail("BAD_SETTING", field="against", value=name, allowed="a model with the same tokenizer")


def evaluate(
    model: PreTrainedModel,
    tokens: Tensor,
    original: PreTrainedModel | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score tokens: (windows, seqlen) window by window.

    ``progress`` is called with windows done and in all; what it raises ends the evaluation.
    """
    running = Running(tokens.shape[1])
    for done, scores in enumerate(score(model, tokens, original), 1):
        running.add(scores)
        progress(done, len(tokens))
    return running.evaluation()


def score(model: PreTrainedModel, tokens: Tensor, original: PreTrainedModel | None = None) -> Iterator[Scores]:
    """Score tokens: (windows, seqlen) window by window, the model before the original; logits of one exist at a time.

    Raises ``BAD_SETTING`` where the two do not predict over the same vocabulary, and ``NON_FINITE``.
    """
    for window in tokens:
        logits = predict(model, window)
        other = None if original is None else predict(original, window).to(logits.device)
        if other is not None and other.shape != logits.shape:
            allowed = f"a model with a vocabulary of {logits.shape[-1]} tokens"
            fail("BAD_SETTING", field="against", value=f"{other.shape[-1]} tokens", allowed=allowed)
        scores = _scores(logits, window, other)
        if wrong := int(scores.loss.isnan().sum()):
            fail("NON_FINITE", name="What the model predicts", count=wrong, remedy="Quantize again, or use float32.")
        yield scores


@torch.no_grad()
def predict(model: PreTrainedModel, window: Tensor) -> Tensor:
    """Logits for all tokens of a window: (seqlen,) but the first: (seqlen - 1, vocabulary)."""
    ids = window.to(model.device)[None]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, :-1]
    return logits


def _scores(logits: Tensor, window: Tensor, original: Tensor | None) -> Scores:
    """Scores of logits: (seqlen - 1, vocabulary), some rows at a time."""
    targets, chunks = window[1:].to(logits.device), []
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        log_q, own = _read(logits[rows], targets[rows])
        none = torch.empty(0, device=logits.device)
        other, kl = (none, none, none), none
        if original is not None:
            log_p, other = _read(original[rows], targets[rows])
            kl = kl_rows(log_p, log_q)
        chunks.append([t.cpu() for t in (*own, *other, kl)])
    return Scores(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def _read(logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Log-probabilities: (rows, vocabulary), and of each row: loss, likeliest token, its probability."""
    log_q = logits.float().log_softmax(-1)
    best = log_q.max(-1)
    return log_q, (-log_q.gather(-1, targets[:, None])[:, 0].double(), best.indices, best.values.exp())


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL of each row of log-probabilities: (rows, vocabulary), float64: (rows,). An impossible token adds nothing."""
    terms = log_p.exp() * (log_p - log_q)
    return terms.masked_fill(log_p == -torch.inf, 0.0).sum(-1).double()
