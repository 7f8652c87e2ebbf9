"""What the products in Triton share: where they run, and how the width of a matrix is divided among their programs.

Triton comes with torch for CUDA and is no requirement: modules with kernels are imported at the first product.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch

CAPABLE = (8, 0)  # compute capability that Triton supports: Ampere and later
FEW = 16  # rows of x that a kernel takes, those of one product on tensor cores
PROGRAMS = 512  # that keep a GPU busy


@lru_cache
def runs_triton(device: torch.device) -> bool:
    """Whether kernels in Triton run there."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABLE


def shares(programs: int, width: int, block: int) -> tuple[int, int]:
    """How many shares the width has, and the width of each but the last: a multiple of ``block``.

    ``programs``: how many there are for the rows. The shape alone decides, so the sums are the same on every GPU.
    """
    blocks = -(-width // block)
    each = -(-blocks // max(1, min(blocks, PROGRAMS // programs)))
    return -(-blocks // each), each * block
