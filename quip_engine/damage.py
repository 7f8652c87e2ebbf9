"""Where the damage of quantization arises: along the text, after each block, and from each layer alone.

    along the text    KL(p || q) by the number of tokens read before, pooled to at most 64 bins; the worst tokens
    after a block b   e_b = mean over tokens of |h^_b - h_b| / |h_b|,   c_b = mean of  h^_b . h_b / (|h^_b| |h_b|)
    of a layer l      KL(p || p_l), p_l: the original with this one layer taken from the model under test

h_b are the hidden states of the original, h^_b those of the model, both on the same windows. e_b accumulates from
block to block; the last figure tells the layers apart. It needs one pass of the original for each layer, so it is
taken over few windows. States are kept of as many evenly spaced tokens of a window as fit in ``STATES`` bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quip_engine.architecture import decoder_blocks, linear_layers
from quip_engine.evaluate import ROWS, Estimate, Scores, kl_rows, predict
from quip_engine.probe.facts import LinearLayer

BINS = 64
WORST = 24  # tokens that are kept
CONTEXT = 24  # tokens shown before one of them
STATES = 256_000_000  # bytes


@dataclass
class Positions:
    """KL by position in the window: ``length`` scored tokens in bins of equal width."""

    length: int
    divergences: list[Tensor] = field(default_factory=list)  # of each window: (bins,)
    agreements: list[Tensor] = field(default_factory=list)

    @property
    def edges(self) -> list[int]:
        bins = min(BINS, self.length)
        return [k * self.length // bins for k in range(bins + 1)]

    def add(self, scores: Scores) -> None:
        widths = [b - a for a, b in zip(self.edges, self.edges[1:], strict=False)]
        for kept, values in ((self.divergences, scores.kl), (self.agreements, scores.agree.double())):
            kept.append(torch.stack([part.mean() for part in values.split(widths)]))

    def result(self) -> list[dict[str, Any]]:
        """One record a bin: tokens read before its ``first`` and ``last`` token, mean KL with error, agreement."""
        if not self.divergences:
            return []
        kl, agree = torch.stack(self.divergences), torch.stack(self.agreements).mean(0)
        records = []
        for k, (start, end) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            mean = Estimate.of(kl[:, k].tolist())
            places = {"first": start + 1, "last": end}
            records.append({**places, "kl": mean.value, "kl_error": mean.error, "agreement": float(agree[k])})
        return records


@dataclass
class WorstTokens:
    """The tokens at which the model's prediction moved most."""

    heap: list[tuple[float, int, int, dict[str, float]]] = field(default_factory=list)

    def add(self, index: int, scores: Scores) -> None:
        """Take in the scores of window ``index``."""
        values, places = scores.kl.topk(min(WORST, len(scores.kl)))
        for kl, t in zip(values.tolist(), places.tolist(), strict=True):
            said = {
                "model": int(scores.choice[t]),
                "model_probability": float(scores.confidence[t]),
                "original": int(scores.original_choice[t]),
                "original_probability": float(scores.original_confidence[t]),
            }
            push = heapq.heappush if len(self.heap) < WORST else heapq.heappushpop
            push(self.heap, (kl, -index, -t, said))

    def result(self, tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> list[dict[str, Any]]:
        """Worst first: ``context`` before the token, ``text`` that came, what either would say, and the KL."""
        records = []
        for kl, index, place, said in sorted(self.heap, reverse=True):
            window, t = tokens[-index].tolist(), -place
            before = window[max(0, t + 1 - CONTEXT) : t + 1]
            spoken = partial(_next, tokenizer, before)
            texts = {
                "model": spoken(said["model"]),
                "original": spoken(said["original"]),
                "text": spoken(window[t + 1]),
            }
            context = tokenizer.decode(before, skip_special_tokens=False)
            records.append({"window": -index, "position": t + 1, "kl": kl, "context": context, **said, **texts})
        return records


def _next(tokenizer: PreTrainedTokenizerBase, before: list[int], token: float) -> str:
    """The text of a token where it stands, with the space that may begin it."""
    text = tokenizer.decode([*before, int(token)], skip_special_tokens=False)
    return str(text[len(tokenizer.decode(before, skip_special_tokens=False)) :])


class BlockErrors:
    """Hidden states of two models after each block, compared while both score the same windows, the model first.

    A context: its hooks are there only inside. Two models that do not have the same blocks give no figures (``blocks``
    is 0).
    """

    def __init__(self, model: PreTrainedModel, original: PreTrainedModel) -> None:
        try:
            self._pairs = list(zip(*(decoder_blocks(each)[1] for each in (model, original)), strict=True))
        except ValueError:
            self._pairs = []
        self._states: list[Tensor] = []
        self._errors: list[list[float]] = [[] for _ in self._pairs]
        self._cosines: list[list[float]] = [[] for _ in self._pairs]
        self._handles: list[Any] = []

    @property
    def blocks(self) -> int:
        return len(self._pairs)

    def __enter__(self) -> BlockErrors:
        for index, (block, other) in enumerate(self._pairs):
            self._handles.append(block.register_forward_hook(partial(self._keep, index)))
            self._handles.append(other.register_forward_hook(partial(self._compare, index)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, index: int, _block: nn.Module, _args: Any, out: Any) -> None:
        if index == 0:
            self._states.clear()
        self._states.append(_sampled(out, self.blocks))

    def _compare(self, index: int, _block: nn.Module, _args: Any, out: Any) -> None:
        h = _sampled(out, self.blocks)
        changed = self._states[index].to(h.device)
        tiny = torch.finfo(torch.float32).tiny
        errors = (changed - h).norm(dim=-1) / h.norm(dim=-1).clamp_min(tiny)
        self._errors[index].append(float(errors.double().mean()))
        cosines = nn.functional.cosine_similarity(changed, h, dim=-1)
        self._cosines[index].append(float(cosines.double().mean()))

    def result(self) -> list[dict[str, Any]]:
        """One record a block: ``error`` (e_b), its standard error, ``cosine`` (c_b)."""
        records = []
        for block, (errors, cosines) in enumerate(zip(self._errors, self._cosines, strict=True)):
            mean = Estimate.of(errors)
            record = {"block": block, "error": mean.value, "error_error": mean.error}
            records.append({**record, "cosine": Estimate.of(cosines).value})
        return records


def _sampled(out: Any, blocks: int) -> Tensor:
    """States of evenly spaced tokens, (rows, width) float32, of what a block gave for one window."""
    states = (out[0] if isinstance(out, tuple) else out).detach().flatten(0, -2)
    length, width = states.shape
    rows = max(1, min(length, STATES // (4 * width * blocks)))
    return states[torch.linspace(0, length - 1, rows).round().long().to(states.device)].float()


def comparable_layers(model: PreTrainedModel, original: PreTrainedModel) -> list[LinearLayer]:
    """The linear layers of the original in whose place the model has another one of the same shape."""
    modules = dict(model.named_modules())
    return [layer for layer in linear_layers(*decoder_blocks(original)) if _differs(layer, modules, original)]


def _differs(layer: LinearLayer, modules: dict[str, nn.Module], original: PreTrainedModel) -> bool:
    own, other = modules.get(layer.name), original.get_submodule(layer.name)
    if own is None or isinstance(own, nn.ModuleList):
        return False
    if type(own) is not type(other):
        return (getattr(own, "out_features", None), getattr(own, "in_features", None)) == layer.shape
    a, b = (module.get_parameter("weight") for module in (own, other))
    return a.shape == b.shape and not torch.equal(a, b.to(a.device))


@torch.no_grad()
def layers_alone(
    model: PreTrainedModel, original: PreTrainedModel, tokens: Tensor, layers: list[LinearLayer]
) -> Iterator[tuple[int, LinearLayer, float]]:
    """(window, layer, KL) for tokens: (windows, seqlen), where only this layer of the original is the model's."""
    for index, window in enumerate(tokens):
        log_p = predict(original, window).float().log_softmax(-1)
        for layer in layers:
            parent_name, _, name = layer.name.rpartition(".")
            parent = original.get_submodule(parent_name)
            own = getattr(parent, name)
            setattr(parent, name, model.get_submodule(layer.name))
            try:
                logits = predict(original, window)
            finally:
                setattr(parent, name, own)
            chunks = zip(log_p.split(ROWS), logits.split(ROWS), strict=True)
            total = sum(float(kl_rows(p, q.float().log_softmax(-1)).sum()) for p, q in chunks)
            yield index, layer, total / len(log_p)
