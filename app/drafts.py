"""The form of the Quantize tab between visits: a draft on disk, so that a reload or a restart loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from quip_engine.config import JobConfig
from quip_engine.errors import QuipError
from quip_engine.files import write_json


class Draft:
    """The last job that the form described, in ``draft.json`` of the data directory. The last writer wins."""

    def __init__(self, home: Path) -> None:
        self._file = home / "draft.json"
        self._written: JobConfig | None = None

    def save(self, job: JobConfig, out: str) -> None:
        """``out``: what was typed as output folder, which may be nothing."""
        draft = replace(job, out=out)
        if draft != self._written:
            self._written = draft
            write_json(self._file, draft.to_json())

    def load(self) -> JobConfig | None:
        """None where there is none that this version understands."""
        try:
            return JobConfig.from_json(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, QuipError):
            return None
