import pytest
import torch
from helpers import random_layer

from quip_engine.transforms.hadamard import RandomizedHadamard
from quip_engine.transforms.importance import Importance
from quip_engine.transforms.none import Identity


def measured(m: int) -> torch.Tensor:
    g = torch.randn(3 * m, m, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 2, m)
    G = g.T @ g
    return G / G.diagonal().mean()


@pytest.mark.parametrize("together", [True, False])
def test_the_loss_is_the_trace(together: bool) -> None:
    E, H = random_layer(300, 40, 0)
    G = measured(300)
    known = Importance(G if together else G.diagonal())
    expected = torch.trace((G if together else G.diagonal().diag()).double() @ E.double() @ H.double() @ E.double().T)
    assert known.loss(E, H) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("sides", ["both", "input", "output"])
def test_errors_cost_the_same_in_the_basis_of_rounding(sides: str) -> None:
    W, H = random_layer(96, 40, 0)
    known = Importance(measured(96))
    transform = RandomizedHadamard(sides=sides)
    maps = transform.maps(transform.fit(W, H, input_seed=0, output_seed=1, importance=known.each), 96, 40)
    behind = known.behind(maps)
    assert behind is not None
    E = torch.randn(96, 40, generator=torch.Generator().manual_seed(2))
    ratios = [
        behind.loss(one, torch.eye(40)) / known.loss(maps.on_output_(one.clone()), torch.eye(40))
        for one in (E, E.abs())
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)  # up to its mean, which is 1 in either


def test_outputs_that_are_mixed_count_alike_where_only_the_diagonal_is_known() -> None:
    W, H = random_layer(32, 40, 0)
    known = Importance(torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.5)
    for transform, mixed in ((RandomizedHadamard(sides="output"), True), (Identity(), False)):
        maps = transform.maps(transform.fit(W, H, input_seed=0, output_seed=1), 32, 40)
        assert (known.behind(maps) is None) == mixed
