"""The page as a whole, without a browser."""

from collections import Counter
from pathlib import Path

from app.main import build
from app.studio import Studio


def test_no_two_elements_go_by_one_id(tmp_path: Path) -> None:
    known = (getattr(block, "elem_id", None) for block in build(Studio(tmp_path)).blocks.values())
    times = Counter(name for name in known if name)
    assert len(times) > 100
    assert [name for name, n in times.items() if n > 1] == []
