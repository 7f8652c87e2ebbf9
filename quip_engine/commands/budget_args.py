"""What the whole model may take, on the command line: a size or a memory to fit into, and who gets the bits."""

from __future__ import annotations

import argparse
from typing import Any

from quip_engine.config import EMBEDDINGS, RULES, BudgetConfig, read_bytes
from quip_engine.errors import fail


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    usual = BudgetConfig()
    group = parser.add_argument_group("what the whole model may take")
    group.add_argument("--size", metavar="SIZE", help="of all weight files (1.9 MB, 8 GB), in place of --bits")
    group.add_argument("--fits", metavar="SIZE", help="memory to answer in (8 GB, 7.5 GiB), in place of --bits")
    group.add_argument("--context", type=int, default=usual.context, metavar="N", help="tokens meant by --fits")
    group.add_argument("--allocation", choices=RULES, default=usual.rule, help="how bits are shared out among layers")
    text = "bits of a layer (model.layers.3.mlp.down_proj=4, 3.down_proj=4, *.down_proj=4); repeatable"
    group.add_argument("--layer-bits", action="append", default=[], metavar="NAME=B", help=text)
    text = "bits of embeddings and head; 0 keeps them"
    group.add_argument("--embeddings", type=int, choices=EMBEDDINGS, default=usual.embeddings, help=text)


def budget_config(options: argparse.Namespace) -> BudgetConfig:
    return BudgetConfig(
        size=read_bytes("size", options.size) if options.size else 0,
        fits=read_bytes("fits", options.fits) if options.fits else 0,
        context=options.context,
        rule=options.allocation,
        layers=layer_bits(options.layer_bits),
        embeddings=options.embeddings,
    )


def budget_values(budget: BudgetConfig) -> dict[str, Any]:
    """The flags of a budget, by their names in a namespace."""
    return {
        "size": str(budget.size) if budget.size else None,
        "fits": str(budget.fits) if budget.fits else None,
        "context": budget.context,
        "allocation": budget.rule,
        "layer_bits": [f"{name}={bits:g}" for name, bits in budget.layers.items()],
        "embeddings": budget.embeddings,
    }


def layer_bits(pairs: list[str]) -> dict[str, float]:
    """Bits by name, from ``NAME=BITS`` each. Raises ``BAD_SETTING``."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, bits = map(str.strip, pair.rpartition("="))
        try:
            found[name] = float(bits)
        except ValueError:
            name = ""
        if not name:
            fail("BAD_SETTING", field="layer bits", value=repr(pair), allowed="NAME=BITS")
    return found
