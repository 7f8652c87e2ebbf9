"""``embed``: texts as vectors, by an encoder and, with ``--against``, how far quantization turned them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from quip_engine.commands.model_args import check_name
from quip_engine.config import DEVICES
from quip_engine.errors import fail

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("embed", help="turn texts into vectors with an encoder")
    parser.add_argument("model", metavar="MODEL", help="folder of an encoder, or of a checkpoint made by quantize")
    parser.add_argument("--text", required=True, nargs="+", metavar="TEXT", help="one or several texts")
    parser.add_argument("--against", metavar="ORIGINAL", help="model to compare with: cosine of each text's vectors")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    for name in filter(None, (options.model, options.against)):
        check_name(name, encoder=True)
    from quip_engine.devices import resolve_device, use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.encoders import embed  # noqa: PLC0415
    from quip_engine.loading import load_model  # noqa: PLC0415

    device = resolve_device(options.device)
    use_threads(options.threads)
    model, tokenizer = load_model(options.model, device, encoder=True)
    ids, cut = _tokens(model, tokenizer, options.text)
    vectors = embed(model, ids)
    cosines: list[float] = []
    if options.against is not None:
        original, other = load_model(options.against, device, encoder=True)
        if _tokens(original, other, options.text)[0] != ids:
            fail("BAD_SETTING", field="against", value=options.against, allowed="a model with the same tokenizer")
        reference = embed(original, ids)
        if reference.shape != vectors.shape:
            allowed = f"a model of width {vectors.shape[1]}"
            fail("BAD_SETTING", field="against", value=options.against, allowed=allowed)
        cosines = (vectors * reference).sum(1).tolist()
    _print(options.text, ids, cut, cosines)
    return {
        "texts": len(ids),
        "width": vectors.shape[1],
        "tokens": [len(text) for text in ids],
        "cut": cut,
        "embeddings": vectors.tolist(),
        "cosine": cosines or None,
        "mean_cosine": sum(cosines) / len(cosines) if cosines else None,
    }


def _tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each text within the context, and which texts had to be cut to it."""
    longest = model.config.max_position_embeddings
    whole = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    if not all(whole):
        fail("BAD_SETTING", field="text", value="empty", allowed="at least one character")
    cut = [number for number, ids in enumerate(whole) if len(ids) > longest]
    ids = [tokenizer(text, truncation=True, max_length=longest, verbose=False)["input_ids"] for text in texts]
    return ids, cut


def _print(texts: list[str], ids: list[list[int]], cut: list[int], cosines: list[float]) -> None:
    for number, text in enumerate(texts):
        line = f"{len(ids[number]):>6} tokens"
        line += " (cut to the context)" if number in cut else ""
        line += f"  cosine to the original {cosines[number]:.5f}" if cosines else ""
        print(f"{line}  {text[:60]}", file=sys.stderr)
