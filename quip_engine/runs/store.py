"""History of runs: one row each in SQLite (WAL, synchronous FULL: a committed row survives a power cut).

``status`` in the row is what the worker last said. What it *means* also depends on whether that worker is alive, so
``Run.status`` is derived: a row that says running without a worker behind it is ``interrupted``.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.files import data_home

ALIVE = ("starting", "running", "stopping")
RESUMABLE = ("stopped", "interrupted", "failed")

MIGRATIONS = (
    """CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, job TEXT NOT NULL,
        status TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL, result TEXT, error TEXT
    )""",
    """CREATE TABLE evaluations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, job TEXT NOT NULL,
        content TEXT NOT NULL, key TEXT NOT NULL,
        status TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL, result TEXT, error TEXT
    )""",
    "ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE runs ADD COLUMN place INTEGER",  # in the queue, smallest first
    "ALTER TABLE runs ADD COLUMN holds INTEGER NOT NULL DEFAULT 0",  # it was paused or stopped: the queue waits
    "ALTER TABLE runs ADD COLUMN pid INTEGER",  # of the worker that holds the lock
)


@dataclass(frozen=True)
class Run:
    """One run as seen now. ``status``: starting, running, stopping, stopped, interrupted, failed or done."""

    id: str
    name: str
    status: str
    job: JobConfig
    directory: Path
    created: float
    started: float | None
    finished: float | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def resumable(self) -> bool:
        return self.status in RESUMABLE


class Store:
    """The history below a data directory; made on first use."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or data_home()).absolute()
        (self.home / "runs").mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.connect() as db:
            _migrate(db)

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """The history, for one transaction."""
        db = sqlite3.connect(self.home / "history.sqlite", timeout=10)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            with db:
                yield db
        finally:
            db.close()

    def create(self, job: JobConfig) -> Run:
        name = f"{Path(job.model).name} {job.recipe.method} {job.recipe.bits:g}-bit"
        with self.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()[0]
            run_id = f"run-{number}"
            db.execute(
                "INSERT INTO runs (id, name, job, status, created) VALUES (?, ?, ?, 'starting', ?)",
                (run_id, name, json.dumps(job.to_json()), time.time()),
            )
        (self.home / "runs" / run_id).mkdir(mode=0o700)
        return self.get(run_id)

    def get(self, run_id: str) -> Run:
        if not re.fullmatch(r"run-\d{1,9}", run_id):
            fail("RUN_NOT_FOUND", name=run_id)
        with self.connect() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            fail("RUN_NOT_FOUND", name=run_id)
        return self._run(row)

    def list(self) -> list[Run]:
        """All runs, newest first."""
        with self.connect() as db:
            rows = db.execute("SELECT * FROM runs ORDER BY number DESC").fetchall()
        return [self._run(row) for row in rows]

    def update(self, run_id: str, **columns: Any) -> None:
        """Set columns of a row; dictionaries are stored as JSON."""
        values = [json.dumps(v) if isinstance(v, dict) else v for v in columns.values()]
        assignments = ", ".join(f"{column} = ?" for column in columns)
        with self.connect() as db:
            db.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*values, run_id))

    def _run(self, row: sqlite3.Row) -> Run:
        directory = self.home / "runs" / row["id"]
        return Run(
            id=row["id"],
            name=row["name"],
            status=status_now(row["status"], row["created"], directory),
            job=JobConfig.from_json(json.loads(row["job"])),
            directory=directory,
            created=row["created"],
            started=row["started"],
            finished=row["finished"],
            result=json.loads(row["result"]) if row["result"] else None,
            error=json.loads(row["error"]) if row["error"] else None,
        )


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    done = db.execute("PRAGMA user_version").fetchone()[0]
    for number, statement in enumerate(MIGRATIONS[done:], done + 1):
        db.execute(statement)
        db.execute(f"PRAGMA user_version = {number}")


def status_now(said: str, created: float, directory: Path) -> str:
    """What a status means, given whether the worker of ``directory`` is alive."""
    if said not in ALIVE:
        return said
    if not is_locked(directory / "worker.lock"):
        # A worker needs a moment between its row and its lock.
        return said if said == "starting" and 0 <= time.time() - created < START_SECONDS else "interrupted"
    return "stopping" if (directory / "STOP").exists() else said


START_SECONDS = 30.0


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock. Other askers hold it for an instant, so ask for a little longer."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0.05, poll_interval=0.01):
            return False
    except Timeout:
        return True
