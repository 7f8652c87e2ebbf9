"""A race of methods on one layer: how much each loses, for how many bits, in what time.

Every recipe rounds the same W under the same H, one after the other, so that their times can be compared. A layer of
very many weights runs with some of its rows, evenly spaced: the loss is a sum over rows, so all methods are compared on
the same terms, in seconds; signs and scales of columns then weigh a little more in the bits than they do in the whole.

    limit(R) = sum_i min(theta, lambda_i) / tr(W H W^T)        at R bits per weight (``linalg.bound``)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quip_engine.config import RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.estimate import layer_seconds
from quip_engine.layer import quantize_weight
from quip_engine.linalg.bound import eigenvalues, rate_distortion_bound, relative_proxy_bound
from quip_engine.linalg.hessian import check_hessian
from quip_engine.methods.registry import OF_MODELS, alone, presets_by_age, resolve

MOST_WEIGHTS = 2**22  # that take part
LEAST_ROWS = 64
SMALL = 2**18  # weights of a layer on which no method takes long
PATIENCE = 5.0  # seconds a recipe may take to be in the usual set


@dataclass(frozen=True)
class Finish:
    """How a recipe did. ``reason`` tells why it could not run; its figures are None then."""

    recipe: RecipeConfig
    bits_per_weight: float | None
    rel_proxy: float | None
    seconds: float | None
    notes: list[str] = field(default_factory=list)
    reason: str = ""


def race(
    W: Tensor, H: Tensor, recipes: Iterable[RecipeConfig], *, seed: int = 0, stop: Callable[[], bool] = lambda: False
) -> Iterator[Finish]:
    """Quantize W: (m, n) under H: (n, n) with each recipe in turn; yields each result. Ends early after ``stop()``."""
    for config in recipes:
        if stop():
            return
        yield _finish(W, H, config, seed)


def _finish(W: Tensor, H: Tensor, config: RecipeConfig, seed: int) -> Finish:
    try:
        report = quantize_weight(W, H, resolve(alone(plain(config))), seed=seed, eigenvectors=None).report
    except QuipError as error:
        return Finish(config, None, None, None, reason=error.message)
    return Finish(config, report.bits_per_weight, report.rel_proxy, report.seconds, report.notes)


def plain(config: RecipeConfig) -> RecipeConfig:
    """A recipe without what needs the gradients of a whole model, so that it can run on a single layer."""
    options = {key: value for key, value in config.options.items() if key not in (*OF_MODELS, "spread")}
    return RecipeConfig(config.method, config.bits, config.transform, config.codebook, config.rounding, options)


def some_rows(W: Tensor) -> Tensor:
    """The rows of W: (m, n) that take part in a race."""
    m, n = W.shape
    count = min(m, max(LEAST_ROWS, MOST_WEIGHTS // n))
    return W if count == m else W[torch.arange(count) * m // count].contiguous()


def all_presets(bits: float) -> list[RecipeConfig]:
    """Every preset that has a form of so many bits, the oldest method first."""
    return [RecipeConfig(preset.name, bits) for preset in presets_by_age() if bits in preset.bits]


def usual_presets(m: int, n: int, bits: float = 2) -> list[RecipeConfig]:
    """Those of ``all_presets`` that are quick on an m x n layer."""
    known = all_presets(bits)
    return known if m * n <= SMALL else [config for config in known if expected_seconds(config, m, n) <= PATIENCE]


def expected_seconds(config: RecipeConfig, m: int, n: int) -> float:
    """What a recipe will take for an m x n layer on this machine. Times it on a small layer when first asked."""
    return layer_seconds(resolve(alone(plain(config))), m, n)


def pareto_front(finishes: Sequence[Finish]) -> list[Finish]:
    """Those that no other beats in bits and loss alike, by rising bits."""
    front: list[Finish] = []
    known = [f for f in finishes if f.rel_proxy is not None and f.bits_per_weight is not None]
    for finish in sorted(known, key=lambda f: (f.bits_per_weight, f.rel_proxy)):
        if not front or finish.rel_proxy < front[-1].rel_proxy:  # type: ignore[operator]
            front.append(finish)
    return front


def limit(W: Tensor, H: Tensor, bits: Sequence[float]) -> list[float] | None:
    """The least relative proxy loss of any code at each of ``bits`` per weight; None where H is too wide."""
    H, _ = check_hessian(H, W.shape[1], "This layer")
    if (values := eigenvalues(H)) is None:
        return None
    of_layer = relative_proxy_bound(W, H, values, 0.0)  # at no bits the bound of lambda alone is 1
    return [of_layer * rate_distortion_bound(values, b) for b in bits]
