"""Blind votes: one JSON line each in ``votes.jsonl`` of the data directory, and the score they add up to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.room import Contestant, Room


@dataclass(frozen=True)
class Score:
    """Of one model in the votes on a set of models."""

    name: str
    better: int
    equal: int
    worse: int


class Votes:
    def __init__(self, home: Path) -> None:
        self._file = home / "votes.jsonl"
        self._lock = threading.Lock()

    def add(self, room: Room) -> None:
        """Keep the vote of a conversation."""
        turn = room.turns[-1]
        record = {
            "time": time.time(),
            "models": [{"name": m.name, "path": str(m.path)} for m in room.models],
            "sides": list(room.order),
            "better": room.vote,
            "prompt": turn.prompt,
            "turns": len(room.turns),
            "settings": asdict(turn.settings),
        }
        line = json.dumps(record, ensure_ascii=False)
        with self._lock:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def score(self, models: Sequence[Contestant]) -> list[Score]:
        """The votes on exactly these models, in their order. Lines that cannot be read count for nothing."""
        paths = [str(model.path) for model in models]
        winners = [winner for asked, winner in self._read() if sorted(asked) == sorted(paths)]
        equal = winners.count(None)
        return [
            Score(model.name, better := winners.count(path), equal, len(winners) - equal - better)
            for model, path in zip(models, paths, strict=True)
        ]

    def _read(self) -> list[tuple[list[str], str | None]]:
        """Paths of the models of each vote, and that of the better one."""
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                record = json.loads(line)
                paths = [str(model["path"]) for model in record["models"]]
                found.append((paths, None if record["better"] is None else paths[record["better"]]))
            except (ValueError, TypeError, LookupError):
                continue
        return found
