"""The training loop: the same bits however often interrupted, the best state kept, bad gradients named."""

import math

import pytest
import torch

from quip_engine.errors import QuipError, Stopped
from quip_engine.tuning.loop import Schedule, Training


class Fit:
    """Least squares: windows are rows of A x = b, the last ones judge. ``broken``: the step whose gradient is NaN."""

    def __init__(self, broken=None, rate=0.2):
        generator = torch.Generator().manual_seed(3)
        self.A = torch.randn(20, 4, generator=generator)
        self.b = self.A @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        self.windows, self.broken, self.calls = 16, broken, 0
        self.masters = {name: torch.zeros(4, requires_grad=True) for name in "xyz"}
        self.rates = {"x": rate, "y": rate / 2, "z": rate / 4}

    def loss(self, rows):
        x = self.masters["x"] + self.masters["y"]
        if int(rows.sum()) % 3 == 0:  # as an expert that is not chosen for all
            x = x + self.masters["z"]
        return (self.A[rows] @ x - self.b[rows]).square().mean()

    def gradient(self, windows, share):
        self.calls += 1
        loss = self.loss(windows)
        (loss * share * (math.nan if self.calls == self.broken else 1)).backward()
        return float(loss.detach())

    def validate(self):
        return float(self.loss(torch.arange(16, 20)).detach())


SCHEDULE = Schedule(steps=40, batch=6, pass_windows=4, every=5, patience=3, seed=7)


def never():
    return False


def trained(objective, schedule=SCHEDULE, state=None, stop=never):
    kept = []
    training = Training(objective, schedule, state)
    try:
        progress = list(training.run(stop, kept.append))
    except Stopped:
        return training, kept[-1], []
    return training, training.state(), progress


def same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_it_learns_and_gives_the_same_bits_twice():
    training, state, progress = trained(Fit())
    assert [p.step for p in progress] == list(range(1, 41))
    assert [p.step for p in progress if p.judged is not None] == list(range(5, 41, 5))
    assert training.improved and training.best < training.before / 20  # 1/51
    same(state, trained(Fit())[1])


@pytest.mark.parametrize("stop_after", [0, 1, 7, 23])
def test_a_stopped_training_goes_on_to_the_same_bits(stop_after):
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked > stop_after

    _, halfway, _ = trained(Fit(), stop=stop)
    assert halfway[1]["step"] == stop_after
    same(trained(Fit(), state=halfway)[1], trained(Fit())[1])


def test_every_window_has_its_turn_in_each_epoch():
    training = Training(Fit(), SCHEDULE)
    seen = torch.cat([training.windows_of(step) for step in range(8)])  # 48 = 3 epochs of 16
    assert all(sorted(epoch.tolist()) == list(range(16)) for epoch in seen.split(16))
    assert not torch.equal(seen[:16], seen[16:32])


def test_the_best_state_is_kept_and_patience_ends():
    objective = Fit(rate=40.0)  # far too large
    training, _, progress = trained(objective)
    assert len(progress) == 15 and not training.improved  # three judgements of five steps
    training.restore_best()
    assert all(not p.any() for p in objective.masters.values())


def test_a_gradient_that_is_not_finite_is_named_and_the_masters_stay():
    objective = Fit(broken=9)  # two passes a step: in step 5
    training = Training(objective, SCHEDULE)
    with pytest.raises(QuipError) as caught:
        list(training.run(never, lambda _: None))
    assert caught.value.code == "TUNING_DIVERGED" and "step 5" in caught.value.message
    assert all(p.isfinite().all() for p in objective.masters.values())
    assert training.best_masters
