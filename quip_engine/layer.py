"""One linear layer: W and H in, packed codes and what they cost out.

    W~, H~ = transform(W, H)     codes = rounder(W~, H~, codebook)     W^ = transform^-1(decode(codes))

A ``LayerFormat`` (transform + codebook) is all that a stored layer needs beside its tensors: it makes room for them
(``layout``), turns them into weights (``dequantize``) and is what config.json keeps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from quip_engine.codebooks import Codebook, Quantizer, codebooks
from quip_engine.errors import QuipError, fail
from quip_engine.linalg.guarantee import Traces, eigenvalues_of, energy_of, feedback_ratio, traces
from quip_engine.linalg.hessian import ROWS, check_hessian
from quip_engine.linalg.proxy import eigenvectors as eigenvectors_of
from quip_engine.linalg.proxy import hessian_incoherence, quadratic_trace, weight_incoherence
from quip_engine.linalg.symmetric import LowerHalf
from quip_engine.methods.registry import Recipe
from quip_engine.transforms import Maps, TensorSpec, Transform, transforms
from quip_engine.transforms.importance import Importance

ZERO = "every weight is zero"
LOST = "the rounded layer is no nearer to the original than zeros are"
SMALLEST_ROW = 2**-8  # of the largest norm; what is smaller counts as if it were that large


@dataclass(frozen=True)
class LayerFormat:
    """How one layer is stored."""

    transform: Transform
    codebook: Codebook

    def layout(self, m: int, n: int) -> dict[str, TensorSpec]:
        outside = self.transform.layout(m, n)
        return {**self.codebook.layout(m, n, sum(spec.bits for spec in outside.values())), **outside}

    def maps(self, tensors: dict[str, Tensor], m: int, n: int) -> Maps:
        return self.transform.maps(tensors, m, n)

    def dequantize(self, tensors: dict[str, Tensor], m: int, n: int) -> Tensor:
        """W^: (m, n) float32 in the original basis."""
        return self.maps(tensors, m, n).inverse(self.codebook.decode(tensors, m, n))

    def to_json(self) -> dict[str, Any]:
        return {"transform": self.transform.to_json(), "codebook": self.codebook.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LayerFormat:
        return cls(transforms.from_json(record["transform"]), codebooks.from_json(record["codebook"]))


@dataclass(frozen=True)
class LayerReport:
    """What quantization did to a layer. Losses are relative and measured with the undamped H."""

    bits_per_weight: float
    rel_proxy: float
    rel_mse: float
    mu_w_before: float
    mu_w_after: float
    mu_h_before: float | None  # None: not measured at this width
    mu_h_after: float | None
    seconds: float
    notes: list[str] = field(default_factory=list)
    theory: Traces = field(default_factory=Traces)  # what bounds are made of


@dataclass
class QuantizedWeight:
    """A layer as it is stored, and its report."""

    shape: tuple[int, int]
    format: LayerFormat
    tensors: dict[str, Tensor]
    report: LayerReport

    def dequantize(self) -> Tensor:
        return self.format.dequantize(self.tensors, *self.shape)


def quantize_weight(
    W: Tensor,
    H: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    input_seed: int | None = None,
    name: str = "W",
    eigenvectors: Tensor | EllipsisType | None = ...,
    importance: Importance | None = None,
    last: bool = False,
) -> QuantizedWeight:
    """Quantize W: (m, n) under H: (n, n) = E[w x x^T], tokens counting alike or by their weights w.

    ``importance``: what errors of the outputs cost; None where that is unknown.
    ``input_seed`` is shared by layers that read the same input; by default it follows from ``seed``. Such layers also
    share ``eigenvectors(H)``, which may be given; by default they are computed here. ``last``: nobody needs H after
    this, it may be overwritten. Raises ``NON_FINITE`` for NaN or infinite input and ``QUANT_UNSTABLE`` where no damping
    makes H usable.
    """
    H, notes = _checked(W, H, name)
    m, n = W.shape
    Q = eigenvectors_of(H) if eigenvectors is ... else eigenvectors
    started = time.perf_counter()
    problem = Problem(W.detach(), H, importance, seed, seed if input_seed is None else input_seed)
    recipe = _best_rival(problem, recipe, last=last)
    without, squared = quadratic_trace(problem.W, H), squared_norm(problem.W)
    energy, spectrum = energy_of(squared, H, without), None if Q is None else eigenvalues_of(H, Q)
    solved = _solve(problem, recipe, last=last)
    tensors = solved.tensors | solved.quantizer.pack(solved.codes)
    seconds = time.perf_counter() - started
    Q_t = _eigenvectors_after(Q, solved.H_t, solved.maps)
    rel_proxy = quadratic_trace(solved.error, solved.H_t) / max(without, 1e-300)
    bits = stored_bits(tensors) / (m * n)
    report = LayerReport(
        bits_per_weight=bits,
        rel_proxy=rel_proxy,
        rel_mse=squared_norm(solved.error, solved.maps.from_input) / max(squared, 1e-300),
        mu_w_before=weight_incoherence(problem.W),
        mu_w_after=solved.mu_w,
        mu_h_before=None if Q is None else hessian_incoherence(Q),
        mu_h_after=None if Q_t is None else hessian_incoherence(Q_t),
        seconds=seconds,
        notes=notes + recipe.transform.notes(m, n) + solved.notes + _remarkable(squared, rel_proxy),
        theory=replace(
            traces(
                (energy, energy_of(solved.squared, solved.H_t, without)),
                feedback_ratio(solved.H_t, solved.quantizer.block),
                (spectrum, None if Q_t is None else eigenvalues_of(solved.H_t, Q_t)),
                bits,
                rel_proxy,
            ),
            block=solved.quantizer.block,
        ),
    )
    return QuantizedWeight((m, n), LayerFormat(recipe.transform, recipe.codebook), tensors, report)


def _remarkable(squared: float, rel_proxy: float) -> list[str]:
    """What a person should know of a layer with these weights, squared and summed, and this loss."""
    return [ZERO] if squared == 0 else [LOST] if rel_proxy >= 1 else []


@dataclass(frozen=True)
class Problem:
    """A layer as it is given: its weights, what its inputs and outputs count, and its seeds."""

    W: Tensor  # (m, n)
    H: Tensor  # (n, n)
    importance: Importance | None
    seed: int
    input_seed: int


@dataclass
class Solution:
    """A problem after transform and rounding."""

    tensors: dict[str, Tensor]  # stored by the transform
    maps: Maps
    H_t: Tensor  # in the basis of the transform
    quantizer: Quantizer
    codes: list[Tensor]
    error: Tensor  # (m, n): W^ - W, its outputs those of the layer, its inputs in the basis of H_t
    mu_w: float  # of the transformed weights
    squared: float  # |W~|_F^2
    notes: list[str]


def _solve(problem: Problem, recipe: Recipe, *, last: bool = False) -> Solution:
    """``last``: in the place of H."""
    W, H, known = problem.W, problem.H, problem.importance
    seeds = {"input_seed": problem.input_seed, "output_seed": problem.seed + 1}
    tensors = recipe.transform.fit(W.float(), H, **seeds, importance=None if known is None else known.each)
    maps = recipe.transform.maps(tensors, *W.shape)
    W = maps.weight(W)
    H = maps.hessian_(H) if last else maps.hessian(H)
    quantizer = recipe.codebook.fit(W, H, stored_bits(tensors))
    if known is not None and (behind := known.behind(maps)) is not None:  # else rows count alike: they are mixed
        quantizer.weigh(behind)
    mu_w, squared = weight_incoherence(W), squared_norm(W)
    rounded = recipe.rounding.round(W, H, quantizer, torch.Generator().manual_seed(problem.seed))
    error = maps.on_output_(rounded.weight.sub_(W))
    return Solution(tensors, maps, H, quantizer, rounded.codes, error, mu_w, squared, rounded.notes)


def _best_rival(problem: Problem, recipe: Recipe, *, last: bool = False) -> Recipe:
    """The rival that loses least on this layer, tried with quick codebooks; the recipe itself where it has none.

    Where it is not known what outputs count, a row counts with 1 / rms: between the proxy loss, where small outputs
    hardly count, and relative losses, where all outputs count alike. By the proxy loss alone a model of uneven rows
    ends farther from the original. ``last``: trials work in the place of H, which is then what it was.
    """
    if not recipe.rivals:
        return recipe
    W, known = problem.W, problem.importance
    counts = Importance(_usual_importance(W)) if known is None else known
    kept = LowerHalf.of(problem.H) if last else None

    def loss(rival: Recipe) -> float:
        try:
            tried = _solve(problem, replace(rival, codebook=rival.codebook.quick()), last=last)
            return counts.loss(tried.error, tried.H_t)
        except QuipError as error:
            if error.code != "WIDTH_UNSUPPORTED":
                raise
            return math.inf  # where none fits, the one that is taken says why
        finally:
            if kept:
                kept.write_(problem.H)

    return min(recipe.rivals, key=loss)


def _usual_importance(W: Tensor) -> Tensor:
    """1 / rms of the rows of W: (m, n), up to a factor: (m,)."""
    norms = torch.linalg.vector_norm(W, dim=1, dtype=torch.float32)
    return 1 / norms.clamp_min(max(float(norms.max()) * SMALLEST_ROW, 1e-30))


def stored_bits(tensors: dict[str, Tensor]) -> int:
    """Every bit of the stored tensors."""
    return sum(8 * t.numel() * t.element_size() for t in tensors.values())


def squared_norm(W: Tensor, mapped: Callable[[Tensor], Tensor] = torch.Tensor.double) -> float:
    """|W|_F^2 of W: (m, n), or of its rows once they are ``mapped``; in float64 without a copy of the whole."""
    return sum(float(mapped(rows).double().square().sum()) for rows in W.split(ROWS))


def _checked(W: Tensor, H: Tensor, name: str) -> tuple[Tensor, list[str]]:
    if bad := sum(int((~torch.isfinite(rows)).sum()) for rows in W.split(ROWS)):
        fail("NON_FINITE", name=name, count=bad, remedy="The model is damaged; download it again.")
    return check_hessian(H, W.shape[1], name)


def _eigenvectors_after(Q: Tensor | None, H_t: Tensor, maps: Maps) -> Tensor | None:
    """Those of H~, from those of H: a rotation turns them with it, a rescale makes new ones."""
    if Q is None:
        return None
    return maps.on_input(Q.T).T if maps.input_scale is None else eigenvectors_of(H_t)
