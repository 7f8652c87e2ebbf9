"""The published trellis: its element order, its random access, its bytes."""

import json

import pytest
import torch
from torch import Tensor

from quip_engine.codebooks import codebooks
from quip_engine.codebooks.published_trellis import PublishedTrellis, from_path, to_path
from quip_engine.codebooks.trellis import Trellis
from quip_engine.linalg.proxy import proxy_loss
from quip_engine.rounding.ldlq import LDLQ
from quip_engine.rounding.nearest import Nearest


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(codebook: PublishedTrellis | Trellis, W: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    quantizer = codebook.fit(W, torch.eye(W.shape[1]))
    result = Nearest().round(W, torch.eye(W.shape[1]), quantizer, torch.Generator())
    return result.weight, quantizer.pack(result.codes)


def test_order_of_a_tile() -> None:
    order = torch.arange(256).reshape(2, 8, 2, 4, 2).permute(1, 3, 2, 0, 4).flatten()  # as published
    tile = torch.arange(256).reshape(16, 16)
    assert torch.equal(to_path(tile).flatten(), order)
    two = torch.cat([tile, tile + 256])
    assert torch.equal(from_path(to_path(two)).reshape(32, 16), two)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("m", "n"), [(32, 48), (20, 44), (1, 24)])
def test_stored_bytes_are_the_rounded_weights(bits: int, m: int, n: int) -> None:
    codebook = PublishedTrellis(bits=bits)
    W_hat, tensors = rounded(codebook, gaussian(m, n) * 0.02)
    assert torch.equal(codebook.decode(tensors, m, n), W_hat)
    assert {k: (t.shape, t.dtype) for k, t in tensors.items()} == {
        k: (s.shape, s.dtype) for k, s in codebook.layout(m, n).items()
    }
    loaded = codebooks.from_json(json.loads(json.dumps(codebook.to_json())))
    assert torch.equal(loaded.decode(tensors, m, n), W_hat)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tiles_are_decoded_by_the_published_formula(bits: int) -> None:
    """Random bytes and a random table, element by element."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 256, (2, 1, 32 * bits), generator=generator, dtype=torch.uint8)
    tensors = {"codes": codes, "table": gaussian(512, 2).half(), "scale": torch.tensor([0.5])}
    W = PublishedTrellis(bits=bits).decode(tensors, 32, 16)
    order = torch.arange(256).reshape(2, 8, 2, 4, 2).permute(1, 3, 2, 0, 4).flatten().tolist()
    for tile in range(2):
        string = "".join(f"{byte:08b}" for byte in codes[tile, 0].tolist())
        for step in range(0, 128, 17):
            end = 2 * bits * (step + 1)
            state = int((string + string)[len(string) + end - 16 : len(string) + end], 2)
            h = state * (state + 1) % 2**32
            first, second = tensors["table"][h >> 6 & 511].float().tolist()
            expected = (-first if h >> 15 & 1 else first, second)
            for place, value in zip(order[2 * step : 2 * step + 2], expected, strict=True):
                assert W[16 * tile + place // 16, place % 16] == value * 0.5


def test_its_distortion_is_that_of_the_code_in_any_order() -> None:
    W = gaussian(256, 64)
    ours, plain = (
        float((rounded(c, W)[0] - W).square().mean()) for c in (PublishedTrellis(), Trellis(L=16, code="hyb"))
    )
    assert ours == pytest.approx(plain, rel=0.03)  # 0.0709 and 0.0711
    assert ours < 0.074


def test_a_metric_and_feedback_are_heard() -> None:
    W, X = gaussian(32, 48), gaussian(200, 48, seed=1) @ gaussian(48, 48, seed=2)
    H = X.T @ X / len(X)
    codebook = PublishedTrellis()
    losses = [
        proxy_loss(W, rounder.round(W, H, codebook.fit(W, H), torch.Generator()).weight, H)
        for rounder in (Nearest(), LDLQ(sweeps=0))
    ]
    assert losses[1] < 0.8 * losses[0]  # 0.056 and 0.077
