"""``problem``: write one layer of a model as a file with W and H, for ``layer``, ``race`` and programs of one's own."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from quip_engine.config import DEVICES, CalibrationConfig, check_number
from quip_engine.errors import fail
from quip_engine.probe import probe

SAMPLES = 16


def add_parser(subparsers: Any) -> None:
    usual = CalibrationConfig()
    parser = subparsers.add_parser("problem", help="write one layer of a model as a file with W and H")
    parser.add_argument("model", metavar="MODEL", help="folder of a Hugging Face model, or a hub id")
    parser.add_argument("layer", metavar="LAYER", help="module path, or BLOCK.PROJECTION in short: 3.q_proj")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--calibration", default=usual.source, metavar="NAME or FILE", help="as of `quantize`")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"calibration windows (default: {SAMPLES})")
    parser.add_argument("--seqlen", type=int, default=usual.seqlen, help=f"tokens of each (default: {usual.seqlen})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--offline", action="store_true", help="take a hub id from the local cache only")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    calibration = CalibrationConfig(options.calibration, options.samples, options.seqlen)
    check_number("seed", options.seed, 0, 2**31 - 1, whole=True)
    if not options.out.absolute().parent.is_dir():
        fail("OUTPUT_NOT_WRITABLE", path=options.out, reason="there is no such folder")
    facts = probe(options.model, offline=options.offline)
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.files import copy  # noqa: PLC0415
    from quip_engine.problem import find_layer, layer_problem  # noqa: PLC0415

    use_threads(options.threads)
    layer, started = find_layer(facts, options.layer), time.perf_counter()
    settings = {"seed": options.seed, "device": options.device, "offline": options.offline}
    problem = layer_problem(facts, layer, calibration, **settings)
    copy(problem.file, options.out)
    m, n = layer.shape
    print(f"{layer.name}, {m} x {n}: W and H are in {options.out}", file=sys.stderr)
    print(f"next: python -m quip_engine layer {options.out} --method quip#", file=sys.stderr)
    facts_of_it = {"model": facts.name, "layer": layer.name, "block": layer.block, "projection": layer.projection}
    seconds = time.perf_counter() - started
    return {**facts_of_it, "shape": [m, n], "bytes": options.out.stat().st_size, "seconds": seconds}
