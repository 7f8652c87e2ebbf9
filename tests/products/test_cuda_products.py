"""Products on CUDA without a GPU: what they compute in Triton's interpreter, and that they compile.

Triton asks when it is imported whether to interpret, so each check has a process of its own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_points import points
from quip_engine.codebooks.e8p_rvq import e81b
from quip_engine.native import gpu
from quip_engine.products import product_of
from quip_engine.products.lattice_cuda import LatticeOnCuda, nibbles

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(call: str, **environment: str) -> None:
    """Of ``cuda_checks``."""
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    code = f"import cuda_checks; cuda_checks.{call}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=600)


@needs_triton
@pytest.mark.parametrize("kind", ["lattice", "trellis", "columns"])
def test_products_are_those_of_plain_torch(kind: str) -> None:
    run(f"interpreted_{kind}()", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile(capability: int, tmp_path: Path) -> None:
    run(f"compiled({capability})", TRITON_CACHE_DIR=str(tmp_path))


def test_without_a_gpu_there_is_no_product() -> None:
    if not torch.cuda.is_available():
        assert product_of(E8P(), torch.device("cuda")) is None
    assert not isinstance(product_of(E8P(), torch.device("cpu")), LatticeOnCuda)
    assert not gpu.runs_triton(torch.device("cpu"))


def test_words_of_nibbles_are_the_points() -> None:
    upper, lower, residual = nibbles(torch.device("cpu"))
    places = 4 * torch.arange(8)
    words = (upper[:, None] ^ lower).flatten()
    assert torch.equal(((words[:, None] >> places & 15) - 7.5) / 2, points(torch.device("cpu")))
    assert torch.equal(((residual[:, None] >> places & 15) - 8) / 2, e81b(torch.device("cpu")))


@pytest.mark.parametrize(("programs", "width", "block"), [(1, 10, 64), (64, 512, 64), (7, 1000, 32), (4096, 512, 64)])
def test_shares_cover_the_width(programs: int, width: int, block: int) -> None:
    count, share = gpu.shares(programs, width, block)
    assert share % block == 0
    assert (count - 1) * share < width <= count * share
    assert count == 1 or programs * count <= gpu.PROGRAMS
