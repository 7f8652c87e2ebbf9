"""The command line: parses, calls a command, prints its result.

Every command is a module of ``quip_engine.commands`` with ``add_parser`` and ``run``; ``run`` returns the result as a
dictionary and writes what a person reads to stderr. ``--json`` prints the dictionary as the last line of stdout.
Exit status: 0 done, 2 bad input, 75 stopped and resumable, 1 a defect of ours; as shells count ends by a signal,
130 for Ctrl-C and 141 where nobody reads on (``| head``).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any, NoReturn

from quip_engine import __version__
from quip_engine.errors import QuipError, Stopped
from quip_engine.process import wait_patiently

COMMANDS = (
    *("quantize", "layer", "problem", "codebook", "methods", "inspect"),
    *("expect", "evaluate", "generate", "embed", "bench", "runs"),
)


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments in the same form as every other error."""

    def error(self, message: str) -> NoReturn:
        raise QuipError("BAD_ARGUMENT", f"{message[:1].upper()}{message[1:]}.", f"See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m quip_engine", description="Make language models small.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS:
        importlib.import_module(f"quip_engine.commands.{name}").add_parser(subparsers)
    for command in subparsers.choices.values():
        command.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    return parser


def main(argv: list[str] | None = None) -> int:
    wait_patiently()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # what waits there, also after ``--help``
    except BrokenPipeError:
        return _unread()


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        options = build_parser().parse_args(arguments)
        result: dict[str, Any] | list[Any] = options.run(options)
    except QuipError as error:
        return _report(error, as_json)
    except Stopped as stopped:
        print(str(stopped), file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        return 130
    if as_json:
        print(json.dumps(result, allow_nan=False), flush=True)
    return 0


def _unread() -> int:
    """End quietly where the reader of our output is gone: at its end, Python would try to write the rest once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    return 141


def _report(error: QuipError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()), flush=True)
    print(f"{error.code}: {error.message} {error.hint}", file=sys.stderr)
    return 1 if error.code == "DEFECT" else 2
