"""``evaluate``: perplexity of a model on a text and, with ``--against``, how far its predictions moved."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quip_engine.commands.model_args import check_name
from quip_engine.config import DEVICES, check_number
from quip_engine.errors import fail
from quip_engine.files import existing_file

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quip_engine.evaluate import Evaluation

BUNDLED = Path(__file__).parents[2] / "assets" / "evaluation.txt"  # as in quip_engine.evaluate, which loads torch
SEQLEN = 256


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("evaluate", help="measure perplexity and the distance to the original")
    parser.add_argument("model", metavar="MODEL", help="folder of a model, or of a checkpoint made by quantize")
    parser.add_argument("--text", type=Path, default=BUNDLED, metavar="FILE", help="UTF-8 text (default: the bundled)")
    parser.add_argument("--seqlen", type=int, help=f"tokens of a window (default: {SEQLEN}, or the context if less)")
    parser.add_argument("--against", metavar="ORIGINAL", help="model to compare with: KL and top-1 agreement")
    parser.add_argument("--max-windows", type=int, metavar="N", help="use only the first N windows")
    parser.add_argument("--blocks", action="store_true", help="with --against: error of the states after each block")
    parser.add_argument("--positions", action="store_true", help="with --against: KL along the text, and worst tokens")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    for name in filter(None, (options.model, options.against)):
        check_name(name, encoder=False)
    existing_file(str(options.text))
    if options.max_windows is not None:
        check_number("max-windows", options.max_windows, 1, 10**9, whole=True)
    if not options.against and (options.blocks or options.positions):
        fail("BAD_SETTING", field="against", value="nothing", allowed="the original, for --blocks and --positions")
    from quip_engine.calibration import evaluation_text  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.devices import resolve_device, use_threads  # noqa: PLC0415
    from quip_engine.evaluate import check_same_tokens, windows  # noqa: PLC0415
    from quip_engine.loading import load_model  # noqa: PLC0415
    from quip_engine.prompts import context_length  # noqa: PLC0415

    text = evaluation_text(options.text)
    device = resolve_device(options.device)
    use_threads(options.threads)
    model, tokenizer = load_model(options.model, device)
    longest = context_length(model) or 2**31
    seqlen = min(SEQLEN, longest) if options.seqlen is None else options.seqlen
    check_number("seqlen", seqlen, 2, longest, whole=True)
    tokens = windows(tokenizer, text, seqlen, source=options.text.name)[: options.max_windows]
    original = None
    if options.against is not None:
        original, other = load_model(options.against, device)
        check_same_tokens(other, text, tokens, options.against)
    return _measured(options, model, tokenizer, original, tokens)


def _measured(
    options: argparse.Namespace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    original: PreTrainedModel | None,
    tokens: Tensor,
) -> dict[str, Any]:
    from quip_engine.damage import BlockErrors, Positions, WorstTokens  # noqa: PLC0415
    from quip_engine.evaluate import Running, score  # noqa: PLC0415

    errors = BlockErrors(model, original) if original is not None and options.blocks else None
    running, positions, worst = Running(tokens.shape[1]), Positions(tokens.shape[1] - 1), WorstTokens()
    with errors or nullcontext():
        for index, scores in enumerate(score(model, tokens, original)):
            running.add(scores)
            if options.positions:
                positions.add(scores)
                worst.add(index, scores)
            _progress(index + 1, len(tokens))
    result = running.evaluation()
    _print(result)
    record: dict[str, Any] = {
        "tokens": result.tokens,
        "windows": result.windows,
        "seqlen": result.seqlen,
        **result.figures(),
    }
    if errors:
        record["blocks"] = errors.result()
    if options.positions:
        record |= {"positions": positions.result(), "worst": worst.result(tokenizer, tokens)}
    _print_details(record)
    return record


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} windows", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print(result: Evaluation) -> None:
    rows = {
        "perplexity": result.perplexity,
        "perplexity of the original": result.original_perplexity,
        "times the original's": result.ratio,
        "KL(original || model), nats": result.mean_kl,
        "top-1 agreement": result.top1_agreement,
    }
    print(f"{result.tokens} tokens in {result.windows} windows of {result.seqlen}", file=sys.stderr)
    for name, estimate in rows.items():
        if estimate is not None:
            error = "" if estimate.error is None else f" ± {estimate.error:.2g}"
            print(f"{name:<28} {estimate.value:.5g}{error}", file=sys.stderr)


def _print_details(record: dict[str, Any]) -> None:
    for block in record.get("blocks", ()):
        words = f"relative error {block['error']:.4f}, cosine {block['cosine']:.5f}"
        print(f"after block {block['block']:<4} {words}", file=sys.stderr)
    for place in record.get("positions", ()):
        print(f"tokens {place['first']:>5} to {place['last']:>5}   KL {place['kl']:.4g}", file=sys.stderr)
    for token in record.get("worst", ())[:8]:
        choices = f"{token['original']!r} became {token['model']!r}, KL {token['kl']:.3g}"
        print(f"{token['context'][-40:]!r}: {choices}", file=sys.stderr)
