"""Half of a symmetric matrix is all of it."""

import pytest
import torch

from quip_engine.linalg.symmetric import LowerHalf


@pytest.mark.parametrize("n", [1, 48, 256, 257, 700])
def test_what_is_kept_is_written_again(n: int) -> None:
    X = torch.randn(2 * n, n, generator=torch.Generator().manual_seed(n))
    H = X.T @ X
    H = H / 2 + H.T / 2
    half, spoiled = LowerHalf.of(H), torch.full_like(H, torch.nan)
    assert half.write_(spoiled) is spoiled
    assert torch.equal(spoiled, H)


def test_it_takes_half_the_room() -> None:
    panels = [panel for _, panel in LowerHalf(4096).panels()]
    assert sum(panel.numel() for panel in panels) < 0.54 * 4096**2  # 0.531
    assert len({panel.untyped_storage().data_ptr() for panel in panels}) == 1


def test_panels_cover_what_is_on_and_below_the_diagonal() -> None:
    half, H = LowerHalf(600), torch.zeros(600, 600)
    for start, panel in half.panels():
        panel.fill_(1)
        H[start:, start : start + panel.shape[1]] = 1
    assert torch.equal(half.write_(torch.empty(600, 600)), torch.ones(600, 600))
    assert torch.equal(H.tril(), torch.ones(600, 600).tril())
