"""Calibration windows that overflow are put aside: another window stands at the place of each, and counts twice.

A window overflows where NaN or infinities come of it in a block, whose weights are as they were or rounded. All states
keep their size, so that whatever is made of them goes on as it would. Above ``MOST`` of the windows it is the model or
the text that is wrong, and the run ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quip_engine.errors import fail

MOST = 0.1  # of the windows
# By what overflowed, the embeddings or the module path of a block: [place, window that stands there from then on].
History = dict[str, list[list[int]]]


class Places:
    """Which window stands at each place of the calibration states. Shared by all states of the same windows."""

    def __init__(self, count: int, history: History | None = None) -> None:
        """``history``: of the same windows in an earlier process."""
        self.owners = list(range(count))
        self.history: History = {name: list(moves) for name, moves in (history or {}).items()}
        for moves in self.history.values():
            for place, window in moves:
                self.owners[place] = window
        self._told = set(self.history)

    def put_aside(self, places: list[int], name: str) -> None:
        """Windows that stand at ``places`` overflow in ``name``. Raises ``ACTIVATION_OVERFLOW`` above ``MOST``."""
        aside = self._taken() | {self.owners[place] for place in places}
        count = len(self.owners)
        if len(aside) > MOST * count:
            fail("ACTIVATION_OVERFLOW", rows=len(aside), total=count, name=name)
        for place, owner in enumerate(self.owners):
            if owner in aside:
                after = ((place + step) % count for step in range(1, count))
                self.owners[place] = next(window for window in after if window not in aside)
                self.history.setdefault(name, []).append([place, self.owners[place]])

    def follow(self, states: Tensor) -> None:
        """Let the windows stand at their places in states: (windows, ...); done before, it changes nothing."""
        for place in self._taken():
            states[place] = states[self.owners[place]]

    def news(self) -> list[str]:
        """A sentence for each block or so in which windows were put aside since the last time."""
        new = [name for name in self.history if name not in self._told]
        self._told.update(new)
        count = len(self.owners)
        rows = {name: len({place for place, _ in self.history[name]}) for name in new}
        return [f"{rows[n]} of {count} calibration rows overflow in {n}; others stand in for them." for n in new]

    def _taken(self) -> set[int]:
        return {place for place, owner in enumerate(self.owners) if owner != place}


def overflowing(values: Tensor, first: int = 0) -> list[int]:
    """Places of the windows of values: (windows, ...) with NaN or infinities; ``first``: the place of the first."""
    finite = torch.isfinite(values).flatten(1).all(1)
    return (first + (~finite).nonzero().flatten()).tolist()
