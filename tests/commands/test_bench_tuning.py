"""bench tuning: what Hessians and stages take, each in a process of its own, beside what was said before."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_model

from quip_engine.cli import build_parser
from quip_engine.errors import QuipError


def rows(*arguments: str) -> dict[str, dict[str, float]]:
    options = build_parser().parse_args(["bench", "tuning", *arguments])
    return {row["name"]: row for row in options.run(options)}


@pytest.mark.slow
def test_every_row_is_measured(tmp_path: Path) -> None:
    few = ["--tune-samples", "16", "--tune-steps", "4", "--tune-batch", "2", "--rounds", "1", "--threads", "1"]
    found = rows("--model", str(tiny_model(tmp_path / "model")), "--methods", "quip#+end-to-end", *few)
    kinds = ["weighted Hessians, s", "two-sided Hessians, s"]
    assert list(found) == [*kinds, "quip#+end-to-end: end-to-end, s", "quip#+end-to-end: end-to-end, MB"]
    assert all(row["ratio"] == row["measured"] / row["beside"] > 0 for row in found.values())
    assert found["quip#+end-to-end: end-to-end, MB"]["held"]  # times are another matter on a busy machine


def test_a_wrong_stage_ends_it_before_anything_runs() -> None:
    with pytest.raises(QuipError, match="sideways"):
        rows("--methods", "waterfill+sideways")
