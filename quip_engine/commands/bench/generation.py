"""``bench generation``: tokens per second of a Llama-shaped model with packed layers, beside the same in bfloat16.

Weights are random: the time of a token does not depend on what they say. All models are in one process and take turns,
a few tokens each; medians count. Embeddings and head are dense bfloat16 in all of them, as in a quantized model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from quip_engine.commands.bench.inference import forms
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.config import ACTIVATIONS, check_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = 16  # of a ``Shape``: .9 billion parameters
PROMPT, TURN, ROUNDS = 16, 4, 9  # tokens of the prompt and of a turn; turns of each model
BASE = "bfloat16, dense"
COLUMNS = ("model", "runs on", "weights MB", "tokens/s", "times bfloat16", "first token s")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("generation", help="tokens per second of packed models and of dense ones")
    text = "of packed layers, as `methods` lists them (default: e8p trellis column-trellis)"
    parser.add_argument(
        "--codebooks", nargs="+", metavar="NAME", default=["e8p", "trellis", "column-trellis"], help=text
    )
    parser.add_argument("--layers", type=int, default=LAYERS, metavar="N", help=f"blocks (default: {LAYERS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each model (default: {ROUNDS})")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_number("layers", options.layers, 1, 1000, whole=True)
    check_number("rounds", options.rounds, 1, 1000, whole=True)
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import

    use_threads(options.threads)
    writers = [Writer(*model) for model in _models(options.codebooks, options.layers)]
    config = writers[0].model.config
    shape = f"{config.num_hidden_layers} blocks of {config.hidden_size} and {config.intermediate_size}"
    print(f"{shape}, {writers[0].threads} threads\n", file=sys.stderr)
    for _ in range(options.rounds):
        for writer in writers:
            writer.turn()
    speeds = {writer.name: TURN / statistics.median(writer.seconds) for writer in writers}
    table, rows = MarkdownTable(*COLUMNS, text=2), []
    for writer in writers:
        row = {
            "name": writer.name,
            "runs_on": writer.runs_on,
            "weight_bytes": writer.bytes,
            "tokens_per_second": speeds[writer.name],
            "ratio": speeds[writer.name] / speeds[BASE],
            "first_token_seconds": writer.first,
        }
        rows.append(row)
        figures = (row["tokens_per_second"], row["ratio"], row["first_token_seconds"])
        table.add(writer.name, writer.runs_on, figure(writer.bytes / 1e6), *map(figure, figures))
    return rows


class Writer:
    """A model that goes on writing, a few tokens at each turn."""

    def __init__(self, name: str, model: PreTrainedModel, activations: str) -> None:
        import torch  # noqa: PLC0415

        from quip_engine.generate import Steps  # noqa: PLC0415
        from quip_engine.inference import prepare  # noqa: PLC0415

        self.name, self.model, self.activations, self.threads = name, model, activations, torch.get_num_threads()
        self.runs_on = str(prepare(model, activations))
        tensors = {t.data_ptr(): t.nbytes for t in model.parameters()}
        self.bytes = sum(tensors.values())
        self.steps = Steps(model, 0)
        started = time.perf_counter()
        self.next = int(self.steps.logits(list(range(1, PROMPT + 1))).argmax())
        self.first = time.perf_counter() - started
        self.seconds: list[float] = []

    def turn(self) -> None:
        from quip_engine.inference import prepare  # noqa: PLC0415

        prepare(self.model, self.activations)  # another writer may share the model
        started = time.perf_counter()
        for _ in range(TURN):
            self.next = int(self.steps.logits([self.next]).argmax())
        self.seconds.append(time.perf_counter() - started)


def _models(names: list[str], layers: int) -> Iterator[tuple[str, PreTrainedModel, str]]:
    """The dense model, and the packed ones with activations as floats and as integers."""
    from quip_engine.commands.bench.synthetic import Shape, random_model  # noqa: PLC0415

    shape = Shape(blocks=layers)
    yield BASE, random_model(shape), ACTIVATIONS[0]
    for name, codebook in forms(names).items():
        model = random_model(shape, codebook)
        for activations in ACTIVATIONS:
            yield f"{name} {'' if activations == ACTIVATIONS[0] else activations}".rstrip(), model, activations
