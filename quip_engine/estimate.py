"""What a run will cost, before it starts.

    bytes    = packed tensors (``LayerFormat.layout``) + tensors that stay + headers, records, tokenizer
    seconds  = sum over layers of  a n + b m n + flops(m, n) / rate
    memory   = process + calibration states + what one block takes where it takes most (``_peak_memory``)

``rate`` is a matrix product timed on this machine; a (per column) and b (per weight) come from quantizing two small
random layers with the very recipe, less their matrix products. All in about 0.3 s, once per recipe. Bytes come within
2 %, seconds within a factor of two on a machine that is not busy.

| symbol  | meaning                                                |
|---------|--------------------------------------------------------|
| m, n    | outputs and inputs of a layer                          |
| T       | calibration tokens                                     |
| n^2 T   | flops of half a Hessian;  2 m n T of one forward pass  |
| m n^2   | flops of LDLQ feedback;  2 m n^2 of a refinement sweep |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from quip_engine.activations import BATCH_TOKENS
from quip_engine.checkpoint import COMPANIONS
from quip_engine.config import CalibrationConfig
from quip_engine.devices import resolve_device
from quip_engine.layer import LayerFormat, quantize_weight
from quip_engine.linalg.proxy import WIDEST_EIGENVECTORS
from quip_engine.methods.registry import Recipe
from quip_engine.probe import ModelFacts
from quip_engine.probe.facts import LinearLayer
from quip_engine.transforms.importance import Importance, is_narrow
from quip_engine.workspace import GENERATIONS

FLOAT = 4  # bytes
PROCESS = 450e6  # bytes of Python with torch and transformers at work, measured
# Bytes of text a layer costs: its record in the manifest, its row in config.json; a tensor: header and index entry.
RECORD_BYTES, ENTRY_BYTES, FOLDER_BYTES = 515, 182, 4500
# Projections that read the same input, where they are parts of the same module, and so share a Hessian.
SHARED = ({"q_proj", "k_proj", "v_proj"}, {"query", "key", "value"}, {"gate_proj", "up_proj"})
PROBES = ((64, 64), (320, 64))  # (m, n) of the random layers that are timed: more rows, the same columns
GRAPH = 2  # times the inputs and outputs of the layers: what a backward pass keeps and makes
SHAPING = 3  # copies of G at work: as measured, in the basis of rounding, its factor
AT_WORK = 3  # float32 copies of a layer: W~, W^, and the error or the codes
SLOW = 0.3  # seconds for the smaller of them: its search outweighs all else, and the larger one would take too long


@dataclass(frozen=True)
class Estimate:
    """Costs of a run. Sizes in bytes; ``peak_memory`` is of the device the work is done on."""

    bytes: int  # of the finished folder
    bits_per_weight: float  # of the quantized layers, every stored bit
    peak_memory: int
    seconds: float
    disk: int  # most that is needed while it runs


@dataclass(frozen=True)
class Rates:
    """Speed of this machine with one recipe."""

    flops: float  # per second, in float32 matrix products
    per_column: float  # seconds
    per_weight: float  # seconds


def estimate(
    facts: ModelFacts,
    recipe: Recipe,
    calibration: CalibrationConfig,
    device: str = "auto",
    rates: Rates | None = None,
    *,
    weight_files: int = 0,
) -> Estimate:
    """Costs of quantizing the model of ``facts`` with ``recipe``.

    ``rates``: from ``measured``; without them the recipe is timed on two small layers (about 0.3 s).
    ``weight_files``: as in ``output_bytes``.
    """
    where = resolve_device(device)
    tokens = calibration.samples * min(calibration.seqlen, facts.context)
    rates = rates or usual_rates(recipe, device)
    weighted = recipe.weighted
    memory, disk = room(facts, recipe, calibration, where, weight_files)
    return Estimate(
        bytes=output_bytes(facts, recipe, weight_files),
        bits_per_weight=8 * _packed_bytes(facts, recipe) / facts.weights,
        peak_memory=memory,
        seconds=_seconds(facts, tokens, rates)
        + (_gradient_flops(facts, recipe, tokens) / rates.flops if weighted else 0),
        disk=disk,
    )


def room(
    facts: ModelFacts, recipe: Recipe, calibration: CalibrationConfig, where: torch.device, weight_files: int = 0
) -> tuple[int, int]:
    """Bytes needed at most while a run goes on: on its device, and on the disk. Times nothing.

    ``weight_files``: as in ``output_bytes``.
    """
    seqlen = min(calibration.seqlen, facts.context)
    states = calibration.samples * seqlen * facts.hidden * FLOAT
    weighted = recipe.weighted
    at_once = facts.blocks if weighted else 1  # inputs of blocks: of all with gradients, else of the next
    kept = at_once + GENERATIONS
    together = sum(_together(layer, recipe) for layer in facts.linear_layers)
    memory = _peak_memory(facts, recipe, states, seqlen, where.type) + (PROCESS if where.type == "cpu" else 0)
    return int(memory), output_bytes(
        facts, recipe, weight_files
    ) + kept * states + together  # finished blocks become the output


def usual_rates(recipe: Recipe, device: str = "auto") -> Rates:
    """Rates of two small layers, timed once (about 0.3 s)."""
    return _rates(recipe, resolve_device(device), torch.get_num_threads())


def measured(facts: ModelFacts, recipe: Recipe, device: str = "auto") -> Rates:
    """Rates from quantizing one layer of the model's own shapes, the smallest that has at least the mean of weights."""
    where = resolve_device(device)
    usual = _rates(recipe, where, torch.get_num_threads())
    shapes = sorted({layer.shape for layer in facts.linear_layers}, key=math.prod)
    mean = facts.weights / len(facts.linear_layers)
    m, n = next(shape for shape in shapes if math.prod(shape) >= mean)
    seconds = _layer_seconds(recipe, m, n, where, 1) - _layer_flops(m, n) / usual.flops
    return Rates(usual.flops, 0.0, max(seconds, 0.0) / (m * n))


def layer_seconds(recipe: Recipe, m: int, n: int, device: str = "auto") -> float:
    """What quantizing one m x n layer takes, its Hessian given."""
    rates = _rates(recipe, resolve_device(device), torch.get_num_threads())
    return _layer_flops(m, n) / rates.flops + n * rates.per_column + m * n * rates.per_weight


def output_bytes(facts: ModelFacts, recipe: Recipe, weight_files: int = 0) -> int:
    """Bytes of the finished folder; ``weight_files``: of those, where they are not as the recipe alone makes them."""
    layout = LayerFormat(recipe.transform, recipe.codebook).layout
    count = len(facts.linear_layers)
    entries = sum(len(layout(*layer.shape)) for layer in facts.linear_layers)
    folder = Path(facts.path)
    copied = sum(file.stat().st_size for pattern in COMPANIONS for file in folder.glob(pattern))
    text = count * RECORD_BYTES + (entries + facts.tensors - count) * ENTRY_BYTES + FOLDER_BYTES
    return (weight_files or _packed_bytes(facts, recipe) + facts.unquantized_bytes) + copied + text


def _packed_bytes(facts: ModelFacts, recipe: Recipe) -> int:
    layout = LayerFormat(recipe.transform, recipe.codebook).layout
    return sum(
        math.prod(spec.shape) * spec.dtype.itemsize
        for layer in facts.linear_layers
        for spec in layout(*layer.shape).values()
    )


def _peak_memory(facts: ModelFacts, recipe: Recipe, states: int, seqlen: int, device: str) -> float:
    """The largest of: embedding the calibration text, reading a block, a forward pass of it, its layers at work.

    With weights also: the block on its way back, with two times the states and half a Hessian for every layer, and of
    its outputs where the recipe is two-sided; then one of these as a whole, without the block. With corrected targets:
    the states behind the original blocks, too.
    """
    first = [layer for layer in facts.linear_layers if layer.block == 0]
    stored = getattr(torch, facts.dtype).itemsize
    outside = facts.unquantized_bytes / stored * (FLOAT + stored)
    weights = sum(math.prod(layer.shape) for layer in first)
    batch = min(states // (facts.hidden * FLOAT), max(1, BATCH_TOKENS[device] // seqlen) * seqlen)
    forward = batch * sum(sum(layer.shape) * _share(facts, layer) for layer in first) * FLOAT
    halves = [layers[0].shape[1] ** 2 / 2 * FLOAT for layers in _inputs(facts)]
    original = states if recipe.targets == "corrected" else 0
    peaks = [
        states + outside,  # beside the states that grow
        original + weights * (FLOAT + stored),  # its file is mapped
        original + weights * FLOAT + sum(halves) + forward,
        original + max(_at_work(facts, recipe, stored)),
    ]
    if recipe.weighted:
        own = [layer.shape[1] ** 2 / 2 * FLOAT + _together(layer, recipe) / 2 for layer in first]
        peaks += [states + weights * FLOAT + sum(own) + GRAPH * forward, states + sum(own) + 2 * max(own)]
    return states + max(peaks)


def _at_work(facts: ModelFacts, recipe: Recipe, stored: int) -> Iterator[float]:
    """For each shared input of the first block: layers that wait in their own type, halves of Hessians, one at work.

    With corrected targets no Hessian waits, but all layers do until the last group, and its targets with a group.
    """
    groups, corrected = _inputs(facts), recipe.targets == "corrected"
    for done, layers in enumerate(groups):
        first = 0 if corrected and done < len(groups) - 1 else done
        waiting = stored * sum(math.prod(layer.shape) for rest in groups[first:] for layer in rest)
        later = sum(rest[0].shape[1] ** 2 / 2 for rest in groups[done + 1 :])
        if corrected:
            later = sum(math.prod(layer.shape) for layer in layers)
        n = layers[0].shape[1]
        own = 2.0 if len(layers) > 1 else 1.5 if recipe.rivals else 1.0  # H and H~; half of H beside H~; H~ alone
        shaping = SHAPING * max(_together(layer, recipe) for layer in layers)
        yield (
            waiting
            + (later + own * n * n + AT_WORK * max(math.prod(layer.shape) for layer in layers)) * FLOAT
            + shaping
        )


def _together(layer: LinearLayer, recipe: Recipe) -> int:
    """Bytes of what errors of a layer's outputs do together, where that is measured."""
    m, n = layer.shape
    return m * m * FLOAT if recipe.two_sided and is_narrow(m, n) else 0


def _inputs(facts: ModelFacts) -> list[list[LinearLayer]]:
    """The layers of the first block by the input that they read: one Hessian each."""
    groups: dict[tuple[str, int | str], list[LinearLayer]] = {}
    for layer in facts.linear_layers:
        module, _, name = layer.name.rpartition(".")
        group = module, next((i for i, names in enumerate(SHARED) if name in names), name)
        if layer.block == 0:
            groups.setdefault(group, []).append(layer)
    return list(groups.values())


def _share(facts: ModelFacts, layer: LinearLayer) -> float:
    """The share of all tokens that a layer sees."""
    return facts.routed if ".experts." in layer.name else 1.0


def _seconds(facts: ModelFacts, tokens: int, rates: Rates) -> float:
    inputs = ((layers[0].shape[1], _share(facts, layers[0])) for layers in _inputs(facts))
    flops = facts.blocks * sum(n * n * tokens * share + _eigen_flops(n) for n, share in inputs)
    columns = 0
    for layer in facts.linear_layers:
        m, n = layer.shape
        flops += 2 * 2 * m * n * tokens * _share(facts, layer) + _layer_flops(m, n)
        columns += n
    return flops / rates.flops + columns * rates.per_column + facts.weights * rates.per_weight


def _gradient_flops(facts: ModelFacts, recipe: Recipe, tokens: int) -> float:
    """Two passes forward, one back, the Hessian of every layer with its factor, and those of outputs."""
    layers = ((layer.shape, tokens * _share(facts, layer)) for layer in facts.linear_layers)
    outputs = sum(_together(layer, recipe) / FLOAT * tokens * _share(facts, layer) for layer in facts.linear_layers)
    return outputs + sum(3 * 2 * m * n * seen + n * n * seen + n**3 / 3 for (m, n), seen in layers)


def _layer_flops(m: int, n: int) -> float:
    """Cholesky, feedback, one sweep and the float64 loss of one layer: what grows faster than its weights."""
    return n**3 / 3 + 3 * m * n * n + 2 * 2 * m * n * n


def _eigen_flops(n: int) -> float:
    """Matrix products that take as long as the eigenvectors of an n x n matrix."""
    return 60 * n**3 if n <= WIDEST_EIGENVECTORS else 0


@lru_cache(maxsize=64)
def _rates(recipe: Recipe, device: torch.device, threads: int) -> Rates:
    """Time a matrix product and two small layers. ``threads`` only tells measurements apart."""
    A = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(device)
    flops = 2 * 512**3 / _fastest(lambda: float((A @ A)[0, 0]), 5)
    (m, n), (more, _) = PROBES
    small = _layer_seconds(recipe, m, n, device, 2) - _layer_flops(m, n) / flops
    if small > SLOW:
        return Rates(flops, 0.0, small / (m * n))
    large = _layer_seconds(recipe, more, n, device, 1) - _layer_flops(more, n) / flops
    per_weight = max(large - small, 0.0) / ((more - m) * n)
    return Rates(flops, max(small / n - m * per_weight, 0.0), per_weight)


def _layer_seconds(recipe: Recipe, m: int, n: int, device: torch.device, times: int) -> float:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(m, n, generator=generator).to(device)
    X = torch.randn(4 * n, n, generator=generator).to(device)
    H = X.T @ X / len(X)
    known = Importance(torch.eye(m, device=device)) if recipe.two_sided and is_narrow(m, n) else None
    return _fastest(lambda: quantize_weight(W, H, recipe, eigenvectors=None, importance=known), times)


def _fastest(call: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of ``times`` calls; the first one warms up."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)
