"""History of evaluations: one row each beside the runs, and what they were made of.

``content`` is a fingerprint of the model's bytes, ``key`` of everything that decides the result: equal keys, equal
figures. The fingerprint of a checkpoint is that of its manifest, which holds the SHA-256 of every file; other folders
are known by names, sizes and times of their weight files and by their config.json, since gigabytes take too long.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quip_engine.config import EvaluationConfig
from quip_engine.errors import fail
from quip_engine.probe.folder import local_folder
from quip_engine.runs.store import ALIVE, Store, status_now


@dataclass(frozen=True)
class Evaluation:
    """One evaluation as seen now. ``status``: starting, running, stopping, stopped, interrupted, failed or done."""

    id: str
    name: str
    status: str
    job: EvaluationConfig
    directory: Path
    content: str
    key: str
    created: float
    started: float | None
    finished: float | None
    result: dict[str, Any] | None  # an EvaluationFinished record
    error: dict[str, Any] | None

    @property
    def alive(self) -> bool:
        return self.status in ALIVE


class EvaluationStore:
    """The evaluations of a data directory."""

    def __init__(self, home: Path | None = None) -> None:
        self.history_of_runs = Store(home)
        self.home = self.history_of_runs.home
        self._folder = self.home / "evaluations"
        self._folder.mkdir(exist_ok=True, mode=0o700)

    def create(self, job: EvaluationConfig) -> Evaluation:
        content, key = content_of(job.model), key_of(job)
        with self.history_of_runs.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'evaluations'").fetchone()
            name = f"eval-{1 + (last[0] if last else 0)}"
            db.execute(
                "INSERT INTO evaluations (id, name, job, content, key, status, created)"
                " VALUES (?, ?, ?, ?, ?, 'starting', ?)",
                (name, Path(job.model).name, json.dumps(job.to_json()), content, key, time.time()),
            )
        (self._folder / name).mkdir(mode=0o700)
        return self.get(name)

    def get(self, name: str) -> Evaluation:
        """Raises ``EVALUATION_NOT_FOUND``."""
        found = self._rows("WHERE id = ?", name) if re.fullmatch(r"eval-\d{1,9}", name) else []
        if not found:
            fail("EVALUATION_NOT_FOUND", name=name)
        return found[0]

    def history(self) -> list[Evaluation]:
        """All evaluations, newest first."""
        return self._rows("")

    def update(self, name: str, **columns: Any) -> None:
        """Set columns of a row; dictionaries are stored as JSON."""
        values = [json.dumps(v) if isinstance(v, dict) else v for v in columns.values()]
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with self.history_of_runs.connect() as db:
            db.execute(f"UPDATE evaluations SET {assignments} WHERE id = ?", (*values, name))

    def active(self) -> Evaluation | None:
        """The evaluation that a worker is busy with now, if any."""
        return next((row for row in self._rows(f"WHERE status IN {ALIVE}") if row.alive), None)

    def delete(self, name: str) -> None:
        """Remove an evaluation and its files. Raises ``BUSY`` while it works."""
        row = self.get(name)
        if row.alive:
            fail("BUSY", name=row.name, where=f" ({row.id})")
        shutil.rmtree(row.directory, ignore_errors=True)
        with self.history_of_runs.connect() as db:
            db.execute("DELETE FROM evaluations WHERE id = ?", (name,))

    def same(self, job: EvaluationConfig) -> Evaluation | None:
        """The newest finished evaluation with the very result that ``job`` would have."""
        return next(iter(self._rows("WHERE status = 'done' AND key = ?", key_of(job))), None)

    def latest_for(self, folder: Path) -> Evaluation | None:
        """The newest finished evaluation of what is in a model folder now; one with an original comes first."""
        if not folder.is_dir():
            return None
        found = self._rows("WHERE status = 'done' AND content = ?", content_of(str(folder)))
        return next((row for row in found if row.job.against), next(iter(found), None))

    def _rows(self, condition: str, *values: object) -> list[Evaluation]:
        found = self._read(condition, values)
        if any(row.status == "interrupted" for row in found):
            found = self._read(condition, values)  # a worker may have said its last word between row and lock
        return found

    def _read(self, condition: str, values: tuple[object, ...]) -> list[Evaluation]:
        with self.history_of_runs.connect() as db:
            rows = db.execute(f"SELECT * FROM evaluations {condition} ORDER BY number DESC", values).fetchall()
        return [self._evaluation(row) for row in rows]

    def _evaluation(self, row: sqlite3.Row) -> Evaluation:
        directory = self._folder / row["id"]
        parsed: dict[str, Any] = {name: json.loads(row[name]) if row[name] else None for name in ("result", "error")}
        plain = {name: row[name] for name in ("id", "name", "content", "key", "created", "started", "finished")}
        status = status_now(row["status"], row["created"], directory)
        job = EvaluationConfig.from_json(json.loads(row["job"]))
        return Evaluation(**plain, **parsed, status=status, job=job, directory=directory)


def key_of(job: EvaluationConfig) -> str:
    """Fingerprint of everything that decides the result, not of names or where it is computed."""
    from quip_engine.evaluate import text_file  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.files import sha256  # noqa: PLC0415

    parts = [content_of(job.model), content_of(job.against) if job.against else "", sha256(text_file(job.text))]
    rest = (job.seqlen, job.windows, job.layers and bool(job.against), sorted(job.tasks), job.tasks and job.questions)
    return hashlib.sha256(json.dumps([*parts, *rest]).encode()).hexdigest()


def content_of(model: str) -> str:
    """Fingerprint of a model folder as it is now; of a hub id its name."""
    folder = local_folder(model)
    if folder is None:
        return f"hub:{model.strip()}"
    manifest = folder / "quip_manifest.json"
    digest = hashlib.sha256()
    if manifest.is_file():
        digest.update(manifest.read_bytes())
    else:
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
            facts = file.stat()
            digest.update(f"{file.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        config = folder / "config.json"
        digest.update(config.read_bytes() if config.is_file() else b"")
    return digest.hexdigest()
