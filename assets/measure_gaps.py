"""Measure how far the trellis is from an ideal code at each rate: makes ``quip_engine/codebooks/trellis_gaps.json``.

    python assets/measure_gaps.py        (minutes; the same numbers on every machine up to the last digits)

For each state size L and rate R, Gaussian columns of 256 rows are coded at three source gains g around a first guess,
and a parabola through the three errors gives the best one, which is then measured on other numbers.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from quip_engine.codebooks.column_codes import tables
from quip_engine.codebooks.column_trellis import WRAP, Sequences
from quip_engine.codebooks.trellis_gaps import FILE
from quip_engine.codebooks.viterbi import best_path

SIZES = (8, 10, 12, 14, 16)
LOW = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3)
RATES = (*LOW, 3.125, 3.5, 4, 4.5, 5, 5.125, 6, 7, 7.875)  # from 3 and 5 to the next one, codes change
GUESS = {0: 2.4, 0.25: 2.0, 0.5: 1.4, 0.75: 1.2, 1: 1.1, 1.5: 1.04, 2: 0.99, 3: 0.92, 4: 0.9, 8: 0.86}
SPREAD = 0.06  # between the gains tried
ROWS, COLUMNS = 256, 256


def error(L: int, rate: float, gain: float, X: Tensor) -> float:
    """Mean squared error of the columns X: (C, 256) at one gain."""
    trellis = Sequences(L, 1, ROWS)
    table, idle = tables(L, rate, X.device)
    steps = trellis.steps(rate)
    states = best_path(gain * X[..., None], table[:, None], steps, idle=idle[:, None], wrap=WRAP)
    values = table[states] if rate >= 1 else torch.where(steps == 0, idle[states], table[states])
    return float((values / gain - X).double().square().mean())


def measure(L: int, rate: float) -> list[float]:
    """[rate, gap, gain]."""
    if rate * ROWS < L:
        raise ValueError(f"{rate} bits are too few for sequences of {ROWS}")
    generator = torch.Generator().manual_seed(L)
    X, Y = torch.randn(2, COLUMNS, ROWS, generator=generator)
    below, above = max(r for r in GUESS if r <= rate), min(r for r in GUESS if r >= rate)
    share = (rate - below) / (above - below) if above > below else 0.0
    guess = GUESS[below] + share * (GUESS[above] - GUESS[below])
    low, middle, high = (error(L, rate, guess * (1 + d), X) for d in (-SPREAD, 0.0, SPREAD))
    bend = low + high - 2 * middle
    shift = min(max((low - high) / (2 * bend), -1.5), 1.5) if bend > 0 else 0.0
    gain = guess * (1 + SPREAD * shift)
    return [rate, round(error(L, rate, gain, Y) / Y.double().square().mean().item() * 4**rate, 4), round(gain, 3)]


def main() -> None:
    found: dict[int, list[list[float]]] = {}
    for L in SIZES:
        found[L] = []
        for rate in RATES:
            found[L].append(measure(L, rate))
            print(L, *found[L][-1], flush=True)
    lines = [f'"{L}": [{", ".join(map(json.dumps, rows))}]' for L, rows in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
