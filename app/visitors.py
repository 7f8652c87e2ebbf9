"""What each open page has been told, so that it is told only what has changed (see live.py)."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.page import Choices

MOST = 200  # pages that are remembered; another one is told everything again


def difference(old: Any, new: Any) -> list[Any] | None:
    """How ``new`` follows from ``old``, both JSON: None where they are equal.

    ``["text", head, tail, middle]`` keeps so many UTF-16 units of either end, ``["items", {key: difference}]`` changes
    some items of an object or a list, ``["value", new]`` replaces all.
    """
    if old == new:
        return None
    if isinstance(old, str) and isinstance(new, str):
        head = _common(old, new)
        tail = _common(old[head:][::-1], new[head:][::-1])
        return ["text", _units(new[:head]), _units(new[len(new) - tail :]), new[head : len(new) - tail]]
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return ["items", {key: change for key in new if (change := difference(old[key], new[key]))}]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        changes = (difference(*pair) for pair in zip(old, new, strict=True))
        return ["items", {str(k): change for k, change in enumerate(changes) if change}]
    return ["value", new]


def _common(a: str, b: str) -> int:
    """Length of the common beginning, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _units(text: str) -> int:
    """Length as JavaScript counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@dataclass
class Visitor:
    """One page: what it wants to see, and what it has been told."""

    choices: Choices = field(default_factory=Choices)
    number: int = 0  # of the last answer
    told: dict[str, Any] = field(default_factory=dict)  # values of live parts
    given: dict[str, str] = field(default_factory=dict)  # values of other components, as text
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """What has changed. A page that has not heard the last answer, or lost it, is told everything."""
        with self.lock:
            if number != self.number:
                self.told.clear()
            changes = {name: c for name, value in values.items() if (c := difference(self.told.get(name), value))}
            self.told |= values
            self.number += 1
            return {"number": self.number, "changes": changes}

    def missing(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of other components that the page has not been given."""
        return {name: value for name, value in values.items() if self.given.get(name) != _text(value)}

    def give(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same, and from now on it has them."""
        with self.lock:
            missing = self.missing(values)
            self.given |= {name: _text(value) for name, value in missing.items()}
            return missing


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


class Visitors:
    """All pages that are open, by their session; those that were not seen for longest are forgotten."""

    def __init__(self) -> None:
        self._all: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str) -> Visitor:
        with self._lock:
            visitor = self._all.setdefault(session, Visitor())
            self._all.move_to_end(session)
            while len(self._all) > MOST:
                self._all.popitem(last=False)
            return visitor
