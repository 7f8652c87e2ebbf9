"""A recipe as a file: what to do with any model, to keep, to load again and to give to others.

JSON with the recipe, the calibration text, the tuning, what the whole model may take and the seed; neither a model nor
a path of this computer, but for a calibration file of one's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from quip_engine.config import JobConfig
from quip_engine.errors import QuipError, fail

MARK, VERSION = "quip_recipe", 1
LARGEST = 100_000  # bytes
KEPT = ("recipe", "calibration", "tuning", "budget", "seed")


def recipe_text(job: JobConfig) -> str:
    """The file's content for a job."""
    record = job.to_json()
    return json.dumps({MARK: VERSION, **{key: record[key] for key in KEPT}}, indent=1, ensure_ascii=False) + "\n"


def read_recipe(path: Path, job: JobConfig) -> JobConfig:
    """``job`` with recipe, calibration, tuning, budget and seed of a file.

    Raises ``NOT_FOUND``, ``NOT_A_RECIPE``, and for values that are not possible ``BAD_SETTING`` and ``CALIB_EMPTY``.
    Names and options of parts are checked by ``resolve``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError:
        fail("NOT_FOUND", path=path)
    if len(content) > LARGEST:
        fail("NOT_A_RECIPE", path=path.name, reason=f"it is larger than {LARGEST // 1000} kB")
    try:
        record = json.loads(content)
        version = record.pop(MARK)
        if unknown := set(record) - set(KEPT):
            fail("NOT_A_RECIPE", path=path.name, reason=f"it says {sorted(unknown)[0]!r:.40}")
        read = JobConfig.from_json({"model": job.model, "out": job.out, **record})
    except QuipError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fail("NOT_A_RECIPE", path=path.name, reason="it is something else")
    if version != VERSION:
        fail("NOT_A_RECIPE", path=path.name, reason=f"its version is {str(version)[:20]}, this program knows {VERSION}")
    kept = {key: getattr(read, key) for key in KEPT}
    return replace(job, **kept)
