"""``expect``: KL to the original and perplexity at each size, estimated in about a minute, before a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quip_engine.commands.model_args import check_name
from quip_engine.commands.recipe_args import add_method_arguments, recipe_config, whole_if_whole
from quip_engine.config import DEVICES, RULES, BudgetConfig, CalibrationConfig, JobConfig, check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from quip_engine.expectation import Expectation

BUNDLED = Path(__file__).parents[2] / "assets" / "evaluation.txt"  # as in quip_engine.evaluate, which loads torch
WINDOWS = 16
SIZES = "1.5,2,2.5,3,3.5,4,5"


def add_parser(subparsers: Any) -> None:
    calibration = CalibrationConfig()
    parser = subparsers.add_parser("expect", help="estimate what each size will cost in quality, before a run")
    parser.add_argument("model", metavar="MODEL", help="folder of a Hugging Face model, or a hub id")
    parser.add_argument("--bits", default=SIZES, metavar="LIST", help=f"bits per weight (default: {SIZES})")
    add_method_arguments(parser)
    usual = BudgetConfig()
    parser.add_argument("--allocation", choices=RULES, default=usual.rule, help="how bits are shared out among layers")
    parser.add_argument("--minutes", type=float, default=1.0, help="about what it may take (default: 1)")
    parser.add_argument("--text", type=Path, default=BUNDLED, metavar="FILE", help="UTF-8 text to judge by")
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"of that text (default: {WINDOWS})")
    parser.add_argument("--calibration", default=calibration.source, metavar="NAME|FILE", help="calibration text")
    parser.add_argument("--samples", type=int, default=calibration.samples, help="calibration windows, at most")
    parser.add_argument("--seqlen", type=int, default=calibration.seqlen, help="tokens of each window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    sizes = _sizes(options.bits)
    check_number("minutes", options.minutes, 0, 10_000)
    check_number("windows", options.windows, 2, 10**6, whole=True)
    check_name(options.model, encoder=False)
    if not options.text.exists():
        fail("NOT_FOUND", path=options.text)
    job = JobConfig(
        model=options.model,
        out="",
        recipe=recipe_config(options, sizes[0]),
        calibration=CalibrationConfig(options.calibration, options.samples, options.seqlen),
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        budget=BudgetConfig(rule=options.allocation),
    )
    from quip_engine.calibration import evaluation_text  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.devices import use_threads  # noqa: PLC0415
    from quip_engine.evaluate import windows  # noqa: PLC0415
    from quip_engine.expectation import expect  # noqa: PLC0415
    from quip_engine.loading import load_tokenizer  # noqa: PLC0415
    from quip_engine.probe import probe  # noqa: PLC0415

    facts = probe(options.model)
    use_threads(options.threads)
    tokenizer = load_tokenizer(Path(facts.path))
    seqlen = min(options.seqlen, facts.context)
    text = windows(tokenizer, evaluation_text(options.text), seqlen, source=options.text.name)[: options.windows]
    found = expect(job, text, sizes, options.minutes, lambda words: print(words, file=sys.stderr))
    _print(found)
    return found.to_json()


def _sizes(listed: str) -> list[float]:
    """Numbers of a list with commas. Raises ``BAD_SETTING``."""
    try:
        return [whole_if_whole(float(word)) for word in listed.split(",")]
    except ValueError:
        fail("BAD_SETTING", field="bits", value=repr(listed), allowed="numbers with commas between, as 2,2.5,3")


def _print(found: Expectation) -> None:
    how = "the whole model" if len(found.blocks) == found.depth else f"{len(found.blocks)} of {found.depth} blocks"
    print(f"{how}, {found.calibration} + {found.windows} windows, {found.seconds:.0f} s", file=sys.stderr)
    for point in found.points:
        size = f"{point.bits:>5g} bits {point.bytes / 1e6:>9.1f} MB"
        figures = f"KL {point.kl:.4g} ± {point.kl_error:.2g}, perplexity x {point.ratio:.4g} ± {point.ratio_error:.2g}"
        print(f"{size}   {figures}{'' if point.seeds else '   (between its neighbours)'}", file=sys.stderr)
