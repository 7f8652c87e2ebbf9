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
from quip_engine.commands.bench.layers import random_layer
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.config import ACTIVATIONS, check_number

if TYPE_CHECKING:
    from torch import nn
    from transformers import LlamaConfig, PreTrainedModel

    from quip_engine.codebooks import Codebook

WIDTH, INNER, LAYERS, VOCABULARY = 2048, 5632, 16, 32000  # .9 billion parameters
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
    print(f"{options.layers} blocks of {WIDTH} and {INNER}, {writers[0].threads} threads\n", file=sys.stderr)
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
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        dense = LlamaForCausalLM(config).bfloat16().eval()
    yield BASE, _filled(dense, config), ACTIVATIONS[0]
    for name, codebook in forms(names).items():
        with torch.device("meta"):
            packed = LlamaForCausalLM(config).bfloat16().eval()
        model = _filled(_packed(packed, codebook), config)
        for activations in ACTIVATIONS:
            yield f"{name} {'' if activations == ACTIVATIONS[0] else activations}".rstrip(), model, activations


def _packed(model: PreTrainedModel, codebook: Codebook) -> PreTrainedModel:
    """The model on meta with packed layers of random codes in its blocks."""
    import torch  # noqa: PLC0415

    from quip_engine.architecture import linear_modules, weight_of  # noqa: PLC0415
    from quip_engine.commands.bench.inference import packed_linear  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    made: dict[tuple[int, int], Any] = {}
    for name, module in linear_modules(model.model.layers).items():
        m, n = weight_of(module).shape
        if (m, n) not in made:
            made[m, n] = random_layer(codebook, m, n, generator, spent=m + n)
        model.model.layers.set_submodule(name, packed_linear(made[m, n]))
    return model


def _filled(model: nn.Module, config: LlamaConfig) -> Any:
    """The model with random numbers where it is still on meta, and its buffers computed."""
    import torch  # noqa: PLC0415
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    for owner in model.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_meta:
                values = torch.empty(parameter.shape, dtype=parameter.dtype)
                values = values.fill_(1) if parameter.dim() == 1 else values.normal_(0, 0.02, generator=generator)
                setattr(owner, name, torch.nn.Parameter(values, requires_grad=False))
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # type: ignore[union-attr]
    model.tie_weights()  # type: ignore[operator]
    return model
