"""How tuning is asked for on the command line: ``--tune STAGE,STAGE`` and what replaces its usual settings."""

from __future__ import annotations

import argparse
from typing import Any

from quip_engine import events
from quip_engine.config import RELAXING, STAGES, TuningConfig

NUMBERS = {
    "steps": "updates in a stage (default: until every window was seen once)",
    "samples": "windows of calibration text to tune on and to judge by",
    "batch": "windows of an update",
    "rate": "how far an update moves a number, relative to the rms of its tensor",
    "patience": "judgements without a better model that end a stage",
    "labels": "share of the text's own next token in what an update aims at, 0 to 1; not of block",
}


def add_tuning_arguments(parser: argparse.ArgumentParser) -> None:
    usual = TuningConfig()
    listed = ",".join(STAGES)
    parser.add_argument("--tune", default="", metavar="STAGE,..", help=f"tune the packed model: some of {listed}")
    add_tuning_numbers(parser)
    parser.add_argument("--keep-head", action="store_true", help="do not tune embeddings and head")
    text = "make signs of Hadamard transforms real numbers, for more bits; auto: where those are less than 1 %%"
    parser.add_argument("--relax-signs", choices=RELAXING, default=usual.relax_signs, help=text)


def add_tuning_numbers(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    for name, text in NUMBERS.items():
        value = getattr(TuningConfig(), name)
        parser.add_argument(f"--tune-{name}", type=type(value), default=value, metavar="N", help=text)


def tuning_numbers(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, f"tune_{name}") for name in NUMBERS}


def tuning_config(options: argparse.Namespace) -> TuningConfig:
    stages = tuple(stage.strip() for stage in options.tune.split(",") if stage.strip())
    return TuningConfig(stages, **tuning_numbers(options), head=not options.keep_head, relax_signs=options.relax_signs)


def tuning_values(tuning: TuningConfig) -> dict[str, Any]:
    """The arguments that ask for this tuning, by name in the namespace."""
    numbers = {f"tune_{name}": getattr(tuning, name) for name in NUMBERS}
    return {"tune": ",".join(tuning.stages), **numbers, "keep_head": not tuning.head, "relax_signs": tuning.relax_signs}


def tuning_words(event: events.Event) -> str:
    """An event of tuning as a line; empty for others, and for steps that were not judged."""
    match event:
        case events.BlockTuned():
            error = f"error of the block {event.loss_before:.2e} -> {event.loss:.2e}"
            return f"  before {', '.join(event.names)}: {error}, {event.seconds:.1f} s"
        case events.TuningStarted():
            cost = f"about {event.seconds:.0f} s and {event.peak_rss_mb:.0f} MB"
            return f"  {event.stage}: {event.numbers} numbers, {event.steps} steps, KL {event.kl:.5f}; {cost}"
        case events.TuningProgress() if event.kl is not None:
            step = f"step {event.step} of {event.steps}"
            return f"  {event.stage}: {step}, loss {event.loss:.5f}, KL {event.kl:.5f}, {event.seconds:.0f} s"
        case events.TuningFinished():
            taken = "taken" if event.taken else "not taken"
            return f"  {event.stage}: KL {event.kl_before:.5f} -> {event.kl:.5f}, {taken}"
    return ""
