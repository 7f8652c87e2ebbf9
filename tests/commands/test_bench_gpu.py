"""bench gpu: what it says without a GPU, and what it makes of times; the times themselves need one."""

from __future__ import annotations

import pytest
import torch

from quip_engine.cli import build_parser
from quip_engine.commands.bench import gpu
from quip_engine.errors import QuipError


def rows(*arguments: str) -> list[dict]:
    options = build_parser().parse_args(["bench", "gpu", *arguments])
    return options.run(options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(QuipError) as refused:
        rows()
    assert refused.value.code == "NO_GPU"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_products_are_right_and_timed() -> None:
    found = rows("--sizes", "1024", "--rounds", "3", "--codebooks", "e8p", "trellis")
    assert len(found) > 2 and all(row["median_us"] > 0 for row in found)
    assert all(row["error"] is None or row["error"] <= 1e-5 for row in found)


def test_settings_are_checked_first() -> None:
    for arguments in (["--sizes", "3"], ["--rounds", "0"], ["--codebooks", "none"]):
        with pytest.raises(QuipError) as refused:
            rows(*arguments)
        assert refused.value.code == "BAD_SETTING"


def test_row_of_a_product() -> None:
    product = gpu.Candidate("e8p", [lambda: torch.ones(2)], 8192**2 // 4, torch.ones(2))
    row = gpu._row(product, 8192, {"e8p": 20e-6, gpu.BASE: 40e-6}, gpu.peak("NVIDIA H200"))
    assert row["bits_per_weight"] == 2 and row["ratio"] == 2 and row["error"] == 0
    assert row["gb_per_second"] == pytest.approx(838.9, abs=0.1)
    assert row["share_of_peak"] == pytest.approx(0.175, abs=0.001)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("NVIDIA GeForce RTX 4090", 1008e9), ("NVIDIA H100 PCIe", 2039e9), ("NVIDIA L40S", 864e9), ("Another", None)],
)
def test_peak_by_name(device: str, expected: float | None) -> None:
    assert gpu.peak(device) == expected
