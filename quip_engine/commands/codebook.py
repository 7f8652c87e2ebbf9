"""``codebook``: what a codebook costs on a standard Gaussian source, whatever the method around it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from quip_engine.commands.recipe_args import add_option_argument, parse_options, whole_if_whole
from quip_engine.config import check_number

SAMPLES = 2**21  # the error of the mse is then below 0.1 %


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("codebook", help="measure a codebook on a Gaussian source")
    parser.add_argument("name", metavar="NAME", help="a codebook listed by `methods`")
    parser.add_argument("--bits", type=float, help="bits per weight (default: the codebook's own)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"numbers drawn (default: {SAMPLES})")
    parser.add_argument("--seed", type=int, default=0)
    add_option_argument(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    check_number("samples", options.samples, 1, 2**26, whole=True)
    check_number("seed", options.seed, 0, 2**31 - 1, whole=True)
    from quip_engine.codebooks import codebooks  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.distortion import gaussian_distortion  # noqa: PLC0415
    from quip_engine.methods.registry import make_codebook, with_options  # noqa: PLC0415

    kind = codebooks.get(options.name)
    bits = kind().code_bits if options.bits is None else whole_if_whole(options.bits)
    (codebook,) = with_options([make_codebook(options.name, bits)], parse_options(options.option))
    mse, bits_per_weight = gaussian_distortion(codebook, options.samples, options.seed)  # type: ignore[arg-type]
    print(f"{options.name}, {bits_per_weight:.4f} bits per weight: mse {mse:.5f}", file=sys.stderr)
    print(f"{mse * 4**bits_per_weight:.3f} times the least possible at this rate", file=sys.stderr)
    return {"codebook": options.name, "bits_per_weight": bits_per_weight, "mse": mse, "samples": options.samples}
