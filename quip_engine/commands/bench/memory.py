"""``bench memory``: what a packed model takes once it is loaded, and what a streamed quantization takes at its peak.

Every figure is of a process of its own. Of its resident memory a large part is Python, torch, transformers, kernels and
thread pools: what the same job takes with a model of one tiny block. The rest is the model's.

| row                    | resident memory                            | ratio to                                       |
|------------------------|--------------------------------------------|------------------------------------------------|
| ``loading, peak``      | at most, until the model is there          | its files                                      |
| ``loaded, N tokens``   | once it has written N tokens               | the same                                       |
| ``quantization, peak`` | at most, less calibration's activations    | a block in bfloat16 and once more in float32   |

Of the model that is quantized, ``--experts`` makes a mixture: every expert has Hessians of its own, and those that saw
few tokens two of each until they are filled up (``few_tokens``).

A model that has only been loaded is mapped, not read: its pages come in with the first token. The model that is
quantized has few words, so that its blocks are what is largest about it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quip_engine.commands.text import MarkdownTable
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig, check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from quip_engine.commands.bench.synthetic import Shape

WIDTH, INNER, BLOCKS, VOCABULARY = 2048, 5632, 16, 32000
QUANTIZED = 1  # blocks to quantize: more of them take no more memory, only time
PROMPT, TOKENS = 8, 8
SAMPLES, SEQLEN, WORDS = 16, 128, 1024  # of calibration; of the model that is quantized
OF_FILES, OF_BLOCK = 1.15, 1.5  # targets
COLUMNS = ("what", "MB", "without it MB", "rest MB", "of", "that MB", "ratio", "target")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("memory", help="resident memory of a packed model, and the peak of a quantization")
    parser.add_argument("--width", type=int, default=WIDTH, metavar="N", help=f"of the models (default: {WIDTH})")
    parser.add_argument("--inner", type=int, default=INNER, metavar="N", help=f"of their MLPs (default: {INNER})")
    parser.add_argument("--blocks", type=int, default=BLOCKS, metavar="N", help=f"to load (default: {BLOCKS})")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, metavar="N", help=f"(default: {VOCABULARY})")
    text = f"blocks to quantize, 0: none (default: {QUANTIZED})"
    parser.add_argument("--quantize-blocks", type=int, default=QUANTIZED, metavar="N", help=text)
    parser.add_argument("--experts", type=int, default=0, metavar="N", help="of a mixture to quantize (default: none)")
    parser.add_argument("--method", default="quip#", help="to quantize with (default: quip#)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    from quip_engine.commands.bench.synthetic import CHOSEN, HEAD, Shape  # noqa: PLC0415 - torch takes seconds to import

    check_number("width", options.width, 64, 65536, whole=True)
    if options.width % HEAD:
        fail("BAD_SETTING", field="width", value=options.width, allowed=f"multiples of {HEAD}")
    check_number("inner", options.inner, 64, 262144, whole=True)
    check_number("blocks", options.blocks, 1, 1000, whole=True)
    check_number("vocabulary", options.vocabulary, WORDS, 10**6, whole=True)
    check_number("quantize-blocks", options.quantize_blocks, 0, 1000, whole=True)
    if options.experts:
        check_number("experts", options.experts, CHOSEN, 1024, whole=True)
    shape = Shape(options.width, options.inner, options.blocks, options.vocabulary)
    table, rows = MarkdownTable(*COLUMNS), []
    with tempfile.TemporaryDirectory(prefix="quip-bench-") as name:
        measurements = [lambda: loading(Path(name), shape)]
        if options.quantize_blocks:
            few = replace(shape, blocks=options.quantize_blocks, vocabulary=WORDS, experts=options.experts)
            measurements.append(lambda: quantization(Path(name), few, options.method))
        for measurement in measurements:
            for row in measurement():
                rows.append(row)
                figures = (f"{row[key]:.0f}" for key in ("mb", "base_mb", "rest_mb"))
                ratio = (f"{row['of_mb']:.0f}", f"{row['ratio']:.2f}", f"{row['target']:.2f}")
                table.add(row["name"], *figures, row["of"], *ratio)
    return rows


def loading(folder: Path, shape: Shape) -> list[dict[str, Any]]:
    """The rows of a packed model of this shape."""
    from quip_engine.commands.bench.synthetic import write_packed  # noqa: PLC0415

    large = write_packed(folder / "packed", shape)
    found, tiny = in_process(load, large), in_process(load, write_packed(folder / "packed-tiny", shape.tiny))
    size = sum(file.stat().st_size for file in large.glob("*.safetensors")) / 1e6
    return [_row(name, found[name], tiny[name], ("its files", size), OF_FILES) for name in found]


def quantization(folder: Path, shape: Shape, method: str) -> list[dict[str, Any]]:
    """The row of a dense model of this shape."""
    from quip_engine.commands.bench.synthetic import write_dense  # noqa: PLC0415
    from quip_engine.methods.registry import resolve  # noqa: PLC0415

    peaks = []
    for name, this in (("dense", shape), ("dense-tiny", replace(shape.tiny, vocabulary=WORDS))):
        peaks.append(in_process(quantize, write_dense(folder / name, this), method))
    states = 2 if resolve(RecipeConfig(method)).targets == "corrected" else 1  # those behind the original blocks, too
    activations = states * 4 * SAMPLES * SEQLEN * shape.width / 1e6
    block = (2 + 4) * shape.block_weights / 1e6
    row = _row("quantization, peak", peaks[0], peaks[1] + activations, ("a block twice", block), OF_BLOCK)
    return [row | {"activations_mb": activations, "method": method}]


def _row(name: str, mb: float, base: float, of: tuple[str, float], target: float) -> dict[str, Any]:
    rest = mb - base
    figures = {"mb": mb, "base_mb": base, "rest_mb": rest, "of": of[0], "of_mb": of[1]}
    return {"name": name, **figures, "ratio": rest / of[1], "target": target}


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def load(folder: Path) -> dict[str, float]:
    """Load a model as a chat does and write some tokens: resident megabytes by row."""
    import psutil  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from quip_engine.devices import peak_rss_mb  # noqa: PLC0415
    from quip_engine.generate import Steps  # noqa: PLC0415
    from quip_engine.loading import load_model  # noqa: PLC0415

    model, _ = load_model(folder, torch.device("cpu"), dtype=None)
    peak, steps = peak_rss_mb(), Steps(model, PROMPT + TOKENS)
    following = [*range(1, PROMPT + 1)]
    for _ in range(TOKENS):
        following = [int(steps.logits(following).argmax())]
    return {"loading, peak": peak, f"loaded, {TOKENS} tokens": psutil.Process().memory_info().rss / 1e6}


def quantize(folder: Path, method: str) -> float:
    """Quantize a model as a worker does: peak of the resident megabytes."""
    from quip_engine.process import return_freed_memory  # noqa: PLC0415

    return_freed_memory()  # before torch is there
    from quip_engine.devices import peak_rss_mb  # noqa: PLC0415
    from quip_engine.pipeline import quantize_model  # noqa: PLC0415

    out, calibration = folder.with_name(f"{folder.name}-quantized"), CalibrationConfig(samples=SAMPLES, seqlen=SEQLEN)
    job = JobConfig(str(folder), str(out), RecipeConfig(method), calibration, device="cpu")
    for _ in quantize_model(job, out.with_suffix(".work"), lambda: False):
        pass
    return peak_rss_mb()
