"""The Triton kernel in Triton's interpreter, on the CPU. The process is its own: Triton asks for it when imported."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

CHECK = """
import torch
from quip_engine.codebooks.viterbi import Search
from quip_engine.codebooks.viterbi_torch import Span
from quip_engine.native.viterbi_triton import stretch

def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

for L, V, bits, T in [(8, 1, [2], 10), (8, 2, [4], 6), (8, 1, [2, 3, 0, 1], 12), (11, 1, [3], 8), (8, 1, [5], 6)]:
    steps = torch.tensor((bits * T)[:T], dtype=torch.uint8)
    x, table, idle = gaussian(2, T, V), gaussian(2**L, V, seed=1), gaussian(2**L, V, seed=2)
    search, tables = Search(table, steps, idle=idle), torch.stack([idle, table])
    for weights in (None, gaussian(2, T, seed=3).abs()):
        around = search.wrap(x, weights)
        spans = [Span(0, T, begin=around, end=around), Span(T - 2, 4, kept=2), Span(0, T - 1, begin=around)]
        for span in spans:
            found = stretch(x, weights, steps, tables, span.place, (span.begin, span.end))
            assert torch.equal(found, search.stretch(x, weights, span)), (L, bits, span)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_triton_kernel_finds_the_same_paths() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", CHECK], check=True, env=environment, timeout=300)
