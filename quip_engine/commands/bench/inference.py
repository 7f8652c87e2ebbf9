"""``bench decode`` and ``bench prefill``: packed layers beside dense ones, in one process.

Variants take turns, each on several copies of its layer in turn, so that weights come from memory as they do in a model
and not from a cache; medians count. On one thread the thread's own CPU time is measured, else the time that passes.

| row                        | what is timed                                                                           |
|----------------------------|-----------------------------------------------------------------------------------------|
| ``torch bfloat16``         | ``torch.nn.functional.linear`` of the dense weight: what ratios refer to                |
| ``e8p``, ``e8p int8``, ... | the product with the packed weight, activations as floats or as 8-bit integers          |
| ``... whole layer``        | the same with the transforms of its inputs and outputs, a ``QuantizedLinear``           |
| ``Hadamard``               | one randomized Hadamard transform beside a butterfly that stacks its stages in torch    |
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from quip_engine.commands.bench.layers import random_layer
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.config import ACTIVATIONS, check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from torch import Tensor

    from quip_engine.codebooks import Codebook
    from quip_engine.linear import QuantizedLinear
    from quip_engine.products import Packed

SIZE, ROUNDS, COPIES, TOKENS = 4096, 31, 6, 512
SHORTEST = 2e-3  # seconds of calls that are timed together: a clock and a cold start would count too much in less
BASE = "torch bfloat16"
COLUMNS = ("product", "bits per weight", "runs on", "median ms", "times torch bfloat16", "GB/s", "relative error")


@dataclass(frozen=True)
class Candidate:
    """Something to time; ``calls`` has one function for each copy of the layer."""

    name: str
    calls: Sequence[Callable[[], Tensor]]
    bytes: int = 0  # of weights that one call reads
    weights: int = 0
    runs_on: str = "torch"
    truth: Tensor | None = None  # of the first call
    base: str = BASE


def add_parser(subparsers: Any) -> None:
    for name, help in (("decode", "one token: packed products beside dense ones"), ("prefill", "many tokens at once")):
        parser = subparsers.add_parser(name, help=help)
        text = f"width and height of the layer (default: {SIZE})"
        parser.add_argument("--size", type=int, default=SIZE, metavar="N", help=text)
        parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"timed calls of each (default: {ROUNDS})")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
        parser.add_argument("--codebooks", nargs="+", metavar="NAME", help="only these (default: all)")
        if name == "prefill":
            parser.add_argument("--tokens", type=int, default=TOKENS, help=f"(default: {TOKENS})")
        else:
            parser.set_defaults(tokens=1)
        parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_number("size", options.size, 64, 65536, whole=True)
    check_number("rounds", options.rounds, 1, 1000, whole=True)
    check_number("tokens", options.tokens, 1, 65536, whole=True)
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.native import status  # noqa: PLC0415

    use_threads(options.threads)
    shape = f"{options.size} x {options.size}, {options.tokens} tokens, {options.threads} threads"
    print(f"{status()}; {shape}\n", file=sys.stderr)
    found = list(candidates(options))
    times = measure(found, options.rounds, time.thread_time if options.threads == 1 else time.perf_counter)
    table, rows = MarkdownTable(*COLUMNS), []
    for candidate in found:
        rows.append(row := _row(candidate, times))
        bits = figure(row["bits_per_weight"])
        figures = [figure(row[key]) for key in ("median_ms", "ratio", "gb_per_second")]
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        table.add(row["name"], bits, row["runs_on"], *figures, error)
    return rows


def measure(found: list[Candidate], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of a call of each candidate."""
    turns = {candidate.name: cycle(candidate.calls) for candidate in found}
    repeats = {name: max(1, round(SHORTEST / _seconds(calls, 1, clock))) for name, calls in turns.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, calls in turns.items():
            times[name].append(_seconds(calls, repeats[name], clock))
    return {name: statistics.median(of) for name, of in times.items()}


def _seconds(calls: Iterator[Callable[[], Tensor]], count: int, clock: Callable[[], float]) -> float:
    """Of one of ``count`` calls."""
    started = clock()
    for _ in range(count):
        next(calls)()
    return (clock() - started) / count


def _row(candidate: Candidate, times: dict[str, float]) -> dict[str, Any]:
    seconds, error = times[candidate.name], None
    if candidate.truth is not None:
        truth = candidate.truth.double()
        error = float((candidate.calls[0]().double() - truth).norm() / truth.norm())
    return {
        "name": candidate.name,
        "bits_per_weight": 8 * candidate.bytes / candidate.weights if candidate.weights else None,
        "runs_on": candidate.runs_on,
        "median_ms": 1e3 * seconds,
        "ratio": times[candidate.base] / seconds,
        "gb_per_second": candidate.bytes / seconds / 1e9 if candidate.bytes else None,
        "error": error,
    }


def candidates(options: argparse.Namespace) -> Iterator[Candidate]:
    """What is measured, from seeds."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    n, tokens = options.size, options.tokens
    x = torch.randn(tokens, n, generator=generator)
    for dtype in (torch.bfloat16, torch.float32):
        weights = [torch.randn(n, n, generator=generator).to(dtype) for _ in range(COPIES)]
        calls = [partial(torch.nn.functional.linear, x.to(dtype), W) for W in weights]
        yield Candidate(f"torch {str(dtype).removeprefix('torch.')}", calls, weights[0].nbytes, n * n)
    if tokens == 1:
        yield from _hadamard(x)
    for name, codebook in forms(options.codebooks).items():
        yield from _packed(name, codebook, x, generator)


def forms(only: list[str] | None) -> dict[str, Codebook]:
    """Codebooks by name, those with several speeds in several forms."""
    from quip_engine.codebooks import codebooks  # noqa: PLC0415
    from quip_engine.codebooks.column_trellis import ColumnTrellis  # noqa: PLC0415
    from quip_engine.codebooks.e8p_rvq import ResidualE8P  # noqa: PLC0415
    from quip_engine.codebooks.grid import RowGrid  # noqa: PLC0415
    from quip_engine.codebooks.trellis import Trellis  # noqa: PLC0415

    several: dict[str, list[Codebook]] = {
        "e8p-rvq": [ResidualE8P(bits=3), ResidualE8P(bits=4)],
        "trellis": [
            Trellis(L=16, code="mul1"),
            Trellis(L=16, code="1mad"),
            Trellis(code="levels"),
            Trellis(L=16, code="levels"),
        ],
        "column-trellis": [ColumnTrellis(), ColumnTrellis(L=16)],
        "grid-row": [RowGrid(bits=2, group=128), RowGrid(bits=4, group=128)],
    }
    for name in set(only or ()) - set(codebooks.names()):
        fail("BAD_SETTING", field="codebooks", value=repr(name), allowed=", ".join(codebooks.names()))
    listed = [form for kind in codebooks for form in several.get(kind.name, [kind()]) if not only or kind.name in only]
    return {form.described(): form for form in listed}


def _packed(name: str, codebook: Codebook, x: Tensor, generator: Any) -> Iterator[Candidate]:
    """The products that a codebook has a kernel for, and a whole layer."""
    import torch  # noqa: PLC0415

    from quip_engine.products import Packed, packed_product, product_of, reference  # noqa: PLC0415

    n = x.shape[1]
    first = random_layer(codebook, n, n, generator, spent=2 * n)  # signs of both sides
    layers = [Packed(codebook, {k: t.clone() for k, t in first.tensors.items()}, n, n) for _ in range(COPIES)]
    size, truth = sum(t.nbytes for t in first.tensors.values()), reference(first, x)
    for activations in ACTIVATIONS if len(x) == 1 else ACTIVATIONS[:1]:
        if product := product_of(codebook, x.device, activations):
            label = name if activations == "float" else f"{name} {activations}"
            kernel = product.kernel(codebook, x.device, activations)
            dtype = torch.float32 if len(x) == 1 else torch.bfloat16
            calls = [partial(packed_product, p, x, activations, dtype) for p in layers]
            yield Candidate(label, calls, size, n * n, kernel, truth)
            calls = [partial(packed_linear(layer, activations), x.to(torch.bfloat16)) for layer in layers]
            yield Candidate(f"{label}, whole layer", calls, size, n * n, kernel)


def packed_linear(packed: Packed, activations: str = ACTIVATIONS[0]) -> QuantizedLinear:
    """A layer with random signs around a copy of the packed weight."""
    from quip_engine.layer import LayerFormat  # noqa: PLC0415
    from quip_engine.linear import QuantizedLinear  # noqa: PLC0415
    from quip_engine.transforms.hadamard import RandomizedHadamard, draw_signs  # noqa: PLC0415

    form = LayerFormat(RandomizedHadamard(), packed.codebook)
    layer = QuantizedLinear(packed.n, packed.m, False, form, device="meta")
    signs = {"input_signs": draw_signs(packed.n, 0), "output_signs": draw_signs(packed.m, 1)}
    layer.load_state_dict({k: t.clone() for k, t in (packed.tensors | signs).items()}, assign=True)
    layer.activations = activations
    return layer.requires_grad_(False)


def _hadamard(x: Tensor) -> Iterator[Candidate]:
    import torch  # noqa: PLC0415

    from quip_engine.linalg.hadamard import Hadamard, orders  # noqa: PLC0415

    n = x.shape[1]
    if orders(n) != (n,):
        return  # the butterfly knows powers of two only

    def butterfly() -> Tensor:
        y, h = x, 1
        while h < n:
            pairs = y.reshape(-1, n // (2 * h), 2, h)
            y, h = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2), 2 * h
        return y.reshape(x.shape) / n**0.5

    transform = Hadamard(n)
    yield Candidate("Hadamard, stacking butterfly", [butterfly])
    yield Candidate("Hadamard", [lambda: transform.forward(x)], truth=butterfly(), base="Hadamard, stacking butterfly")
