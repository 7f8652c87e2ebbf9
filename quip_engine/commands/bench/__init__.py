"""``bench``: side-by-side measurements, printed as tables that can be kept; ``--json`` gives their rows."""

from __future__ import annotations

from typing import Any

from quip_engine.commands.bench import generation, gpu, inference, kernels, memory, methods, tuning

MEASUREMENTS = (methods, kernels, inference, generation, memory, tuning, gpu)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure methods and kernels side by side")
    measurements = parser.add_subparsers(metavar="WHAT", required=True)
    for measurement in MEASUREMENTS:
        measurement.add_parser(measurements)
    for measurement in measurements.choices.values():
        measurement.add_argument("--json", action="store_true", help="print the rows as one JSON list on stdout")
