"""``bench gpu``: products with packed layers on an NVIDIA GPU beside ``torch.nn.functional.linear`` in bfloat16.

Each call is recorded as a CUDA graph, as generation replays it, so that kernels are timed and not Python. Variants take
turns on copies of their layers, together larger than the caches, between two events each; medians count. A product's
GB/s are those of its codes, and its share is that of what the memory of this GPU can do by its data sheet.

The figures of this command are the only ones that say how fast the kernels are; none are known yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from quip_engine.commands.bench.inference import forms
from quip_engine.commands.bench.layers import random_layer
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.config import check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from torch import Tensor

    from quip_engine.codebooks import Codebook

SIZES, ROUNDS = (4096, 8192, 16384), 51
CACHES = 256e6  # bytes; more than any GPU has
BASE = "torch bfloat16"
COLUMNS = ("product", "size", "bits per weight", "us", f"times {BASE}", "GB/s", "of peak", "relative error")
# GB/s of memory by data sheet; the first name that is part of the device's counts.
PEAKS = {
    **{"B200": 8000, "H200": 4800, "H100 NVL": 3938, "H100 PCIe": 2039, "H100": 3350},
    **{"A100-SXM4-40GB": 1555, "A100-PCIE-40GB": 1555, "A100": 2039, "L40S": 864, "L40": 864, "L4": 300, "A10": 600},
    **{"RTX 5090": 1792, "RTX 4090": 1008, "RTX 4080": 717, "RTX 3090": 936, "RTX 6000 Ada": 960, "RTX A6000": 768},
}


@dataclass(frozen=True)
class Candidate:
    """Something to time; ``calls`` has one function for each copy of the layer."""

    name: str
    calls: Sequence[Callable[[], Tensor]]
    bytes: int  # of weights that one call reads
    truth: Tensor | None = None  # of the first call


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("gpu", help="packed products beside dense ones on an NVIDIA GPU")
    sizes = " ".join(map(str, SIZES))
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, metavar="N", help=f"of layers (default: {sizes})"
    )
    parser.add_argument("--tokens", type=int, default=1, help="multiplied at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"timed calls of each (default: {ROUNDS})")
    parser.add_argument("--codebooks", nargs="+", metavar="NAME", help="only these (default: all with GPU kernels)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Raises ``NO_GPU`` where there is none."""
    check_number("rounds", options.rounds, 1, 1000, whole=True)
    check_number("tokens", options.tokens, 1, 65536, whole=True)
    for size in options.sizes:
        check_number("sizes", size, 64, 65536, whole=True)
    chosen = forms(options.codebooks)
    import torch  # noqa: PLC0415 - takes seconds to import

    from quip_engine.codebooks.trellis import Trellis  # noqa: PLC0415

    if "trellis" in (options.codebooks or ["trellis"]):
        fastest = Trellis(L=16, code="3inst")  # of the codes, on a GPU
        chosen[fastest.described()] = fastest
    if not torch.cuda.is_available():
        fail("NO_GPU")
    device = torch.cuda.get_device_name()
    print(f"{device}, {options.tokens} tokens, torch {torch.__version__}\n", file=sys.stderr)
    table, rows = MarkdownTable(*COLUMNS), []
    for size in options.sizes:
        found = [recorded(candidate) for candidate in candidates(chosen, size, options.tokens)]
        seconds = measure(found, options.rounds)
        for candidate in found:
            rows.append(row := _row(candidate, size, seconds, peak(device)) | {"device": device})
            error = "" if row["error"] is None else f"{row['error']:.1e}"
            share = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.0f} %"
            figures = [figure(row[key]) for key in ("bits_per_weight", "median_us", "ratio", "gb_per_second")]
            table.add(row["name"], str(size), *figures, share, error)
    return rows


def peak(device: str) -> float | None:
    """Bytes per second that the memory of a GPU can do, by its name; None for one that is not listed."""
    return next((1e9 * speed for name, speed in PEAKS.items() if name in device), None)


def candidates(chosen: dict[str, Codebook], size: int, tokens: int) -> Iterator[Candidate]:
    """What is measured, from seeds."""
    import torch  # noqa: PLC0415

    from quip_engine.products import Packed, packed_product, product_of, reference  # noqa: PLC0415

    generator, device = torch.Generator().manual_seed(0), torch.device("cuda")
    x = torch.randn(tokens, size, generator=generator).to(device)
    weights = [torch.randn(size, size, device=device).bfloat16() for _ in range(_copies(2 * size**2))]
    calls = [partial(torch.nn.functional.linear, x.bfloat16(), W) for W in weights]
    yield Candidate(BASE, calls, weights[0].nbytes)
    for name, codebook in chosen.items():
        if product_of(codebook, device) is None:
            continue
        drawn = random_layer(codebook, size, size, generator, spent=2 * size)
        bytes = sum(tensor.nbytes for tensor in drawn.tensors.values())
        layers = [
            Packed(codebook, {key: tensor.to(device, copy=True) for key, tensor in drawn.tensors.items()}, size, size)
            for _ in range(_copies(bytes))
        ]
        calls = [partial(packed_product, layer, x, "float", torch.bfloat16) for layer in layers]
        yield Candidate(name, calls, bytes, reference(layers[0], x))


def _copies(bytes: int) -> int:
    return max(2, -(-int(CACHES) // bytes))


def recorded(candidate: Candidate) -> Candidate:
    """The candidate with its calls as CUDA graphs that are replayed."""
    import torch  # noqa: PLC0415

    def record(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = call()

        def replay() -> Tensor:
            graph.replay()
            return y

        return replay

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        candidate.calls[0]()  # compiles kernels and makes tables
    stream.synchronize()
    with torch.no_grad():
        return replace(candidate, calls=[record(call) for call in candidate.calls])


def measure(found: Sequence[Candidate], rounds: int) -> dict[str, float]:
    """Median seconds of a call of each candidate."""
    import torch  # noqa: PLC0415

    turns = {candidate.name: cycle(candidate.calls) for candidate in found}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for timed in range(-1, rounds):
        for name, calls in turns.items():
            call, started, stopped = next(calls), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            call()
            stopped.record()
            stopped.synchronize()
            if timed >= 0:
                times[name].append(started.elapsed_time(stopped) / 1e3)
    return {name: statistics.median(of) for name, of in times.items()}


def _row(candidate: Candidate, size: int, times: dict[str, float], fastest: float | None) -> dict[str, Any]:
    seconds, error = times[candidate.name], None
    if candidate.truth is not None:
        truth = candidate.truth.double()
        error = float((candidate.calls[0]().double() - truth).norm() / truth.norm())
    speed = candidate.bytes / seconds
    return {
        "name": candidate.name,
        "size": size,
        "bits_per_weight": 8 * candidate.bytes / size**2,
        "median_us": 1e6 * seconds,
        "ratio": times[BASE] / seconds,
        "gb_per_second": speed / 1e9,
        "share_of_peak": speed / fastest if fastest else None,
        "error": error,
    }
