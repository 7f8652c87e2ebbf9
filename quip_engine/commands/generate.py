"""``generate``: let a model continue a prompt, or answer it where the model has a chat template."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from quip_engine.commands.model_args import check_name
from quip_engine.config import ACTIVATIONS, DEVICES, GenerationSettings


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("generate", help="write text with a model")
    parser.add_argument("model", metavar="MODEL", help="folder of a model, or of a checkpoint made by quantize")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="most tokens to write")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest tokens up to P in all"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K likeliest tokens (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default=ACTIVATIONS[0],
        help="int8 is quicker on a CPU, and changes each packed layer's output by about 0.4 %%",
    )
    parser.add_argument(
        "--compile", action="store_true", help="fixed cache and compiled steps: a slow start, then quicker on a GPU"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    check_name(options.model, encoder=False)
    settings = GenerationSettings(options.tokens, options.temperature, options.top_p, options.top_k, options.seed)
    from quip_engine.devices import resolve_device, use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.generate import Answer, stream  # noqa: PLC0415
    from quip_engine.inference import running  # noqa: PLC0415
    from quip_engine.loading import load_model  # noqa: PLC0415
    from quip_engine.prompts import prepare_prompt  # noqa: PLC0415

    device = resolve_device(options.device)
    use_threads(options.threads)
    model, tokenizer = load_model(options.model, device, dtype=None, activations=options.activations)
    print(f"runs on {running(model)}", file=sys.stderr)
    prompt = prepare_prompt(model, tokenizer, options.prompt, settings.max_tokens)
    for _, sentence in prompt.notes:
        print(sentence, file=sys.stderr)
    pieces = []
    for piece in stream(model, tokenizer, prompt, settings, compiled=options.compile):
        print(piece.text, end="", file=sys.stderr, flush=True)
        pieces.append(piece)
    answer = Answer.of(pieces)
    print(file=sys.stderr)
    return {
        "text": answer.text,
        "tokens": len(answer.tokens),
        "tokens_per_second": answer.tokens_per_second,
        "first_token_seconds": answer.first_token_seconds,
        "end": answer.end,
        "runs_on": str(running(model)),
        "templated": prompt.templated,
        "notes": [code for code, _ in prompt.notes],
        "settings": asdict(settings),
    }
