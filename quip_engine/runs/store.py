"""History of runs: one row each in SQLite (WAL, synchronous FULL: a committed row survives a power cut).

``status`` in the row is what the worker last said. What it *means* also depends on whether that worker is alive, so
``Run.status`` is derived: a row that says running without a worker behind it is ``interrupted``.

What comes before what is told by numbers (of runs, of turns, of events): the time of day may jump.
"""

from __future__ import annotations

import errno
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quip_engine.config import JobConfig
from quip_engine.errors import fail
from quip_engine.files import data_home, disk_error

ALIVE = ("starting", "running", "stopping")
RESUMABLE = ("paused", "stopped", "interrupted", "failed")
DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}  # what SQLite says of the disk
NAME, NOTE, TAG, TAGS = 200, 10_000, 40, 20  # longest name, note and tag in characters; most tags

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
    "ALTER TABLE runs ADD COLUMN killed INTEGER",  # processes the system had ended for memory when that one began
    "ALTER TABLE runs ADD COLUMN turn INTEGER NOT NULL DEFAULT 0",
)


@dataclass(frozen=True)
class Run:
    """One run as seen now.

    ``status``: queued, starting, running, stopping, paused, stopped, interrupted, failed or done. ``paused`` ended
    after a layer because somebody asked, ``stopped`` at once, ``interrupted`` without a word.
    """

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
    note: str = ""
    tags: tuple[str, ...] = ()
    place: int | None = None  # in the queue, smallest first
    holds: bool = False  # it was paused or stopped, and the queue waits for it
    pid: int | None = None  # of the worker, while it is alive
    killed: int | None = None  # processes the system had ended for want of memory when the worker began
    turn: int = 0  # of its latest worker, counted over all runs; 0: it had none

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
        """The history, for one transaction. Raises ``DISK_FULL`` and ``IO_ERROR``."""
        path = self.home / "history.sqlite"
        try:
            with closing(sqlite3.connect(path, timeout=10)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                with db:
                    yield db
        except sqlite3.OperationalError as error:
            if (number := error.sqlite_errorcode & 0xFF) in DISK:
                disk_error(DISK[number], str(error), path)
            raise

    def create(self, job: JobConfig, *, queued: bool = False) -> Run:
        """A new row and its directory: about to start, or behind all others in the queue. Numbers never return."""
        with self.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            last = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'runs'").fetchone()[0]
            run_id = f"run-{last + 1}"
            status = "queued" if queued else "starting"
            place = db.execute("SELECT coalesce(max(place), 0) + 1 FROM runs").fetchone()[0] if queued else None
            db.execute(
                "INSERT INTO runs (id, name, job, status, created, place) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, usual_name(job), json.dumps(job.to_json()), status, time.time(), place),
            )
            # Before the row can be seen: a worker that ends now may start this run. Left over, if we die in between.
            (self.home / "runs" / run_id).mkdir(mode=0o700, exist_ok=True)
        return self.get(run_id) if queued else self.give_turn(run_id)

    def give_turn(self, run_id: str) -> Run:
        """Let a run be about to start: the next worker is its own, and what was said of the last one is gone."""
        fresh = {"status": "starting", "created": time.time(), "holds": 0}
        gone = dict.fromkeys(("place", "started", "finished", "error", "pid"))
        with self.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            turn = db.execute("SELECT max(turn) + 1 FROM runs").fetchone()[0]
            _set(db, run_id, {**fresh, **gone, "turn": turn})
        return self.get(run_id)

    def get(self, run_id: str) -> Run:
        if not re.fullmatch(r"run-\d{1,9}", run_id):
            fail("RUN_NOT_FOUND", name=run_id)
        found = self._runs("WHERE id = ?", run_id)
        if not found:
            fail("RUN_NOT_FOUND", name=run_id)
        return found[0]

    def _runs(self, condition: str, *values: object) -> list[Run]:
        found = self._read(condition, values)
        if any(run.status == "interrupted" and run.finished is None for run in found):
            found = self._read(condition, values)  # a worker may have said its last word between row and lock
        return found

    def _read(self, condition: str, values: tuple[object, ...]) -> list[Run]:
        with self.connect() as db:
            rows = db.execute(f"SELECT * FROM runs {condition} ORDER BY number DESC", values).fetchall()
        return [self._run(row) for row in rows]

    def queue(self) -> list[Run]:
        """Runs that wait for their turn, the next one first."""
        return sorted((run for run in self.list() if run.status == "queued"), key=lambda run: run.place or 0)

    def list(self) -> list[Run]:
        """All runs, newest first."""
        return self._runs("")

    def update(self, run_id: str, **columns: Any) -> None:
        """Set columns of a row; dictionaries and tuples are stored as JSON."""
        with self.connect() as db:
            _set(db, run_id, columns)

    def lose(self, run: Run) -> None:
        """Say that the worker of ``run`` has ended without a word, unless it did say one or another has begun."""
        alive = ", ".join(f"'{status}'" for status in ALIVE)
        with self.connect() as db:
            db.execute(
                f"UPDATE runs SET status = 'interrupted' WHERE id = ? AND turn = ? AND status IN ({alive})",
                (run.id, run.turn),
            )

    def describe(
        self, run_id: str, *, name: str | None = None, note: str | None = None, tags: Iterable[str] | None = None
    ) -> Run:
        """Rename, note, tag; what is None stays. Raises ``BAD_SETTING``."""
        run = self.get(run_id)
        columns: dict[str, Any] = {}
        if name is not None:
            columns["name"] = _text("name", " ".join(name.split()), 1, NAME)
        if note is not None:
            columns["note"] = _text("note", note.strip(), 0, NOTE)
        if tags is not None:
            found = tuple(dict.fromkeys(_text("tag", " ".join(t.split()), 1, TAG) for t in tags if t.strip()))
            if len(found) > TAGS:
                fail("BAD_SETTING", field="tags", value=f"{len(found)} of them", allowed=f"{TAGS} at most")
            columns["tags"] = found
        if columns:
            self.update(run.id, **columns)
        return self.get(run_id)

    def forget(self, run_id: str) -> None:
        """Remove a row; its files are the business of ``removal``."""
        with self.connect() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))

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
            note=row["note"],
            tags=tuple(json.loads(row["tags"])),
            place=row["place"],
            holds=bool(row["holds"]),
            pid=row["pid"],
            killed=row["killed"],
            turn=row["turn"],
        )


def _set(db: sqlite3.Connection, run_id: str, columns: dict[str, Any]) -> None:
    values = [json.dumps(v) if isinstance(v, dict | tuple) else v for v in columns.values()]
    assignments = ", ".join(f"{column} = ?" for column in columns)
    db.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*values, run_id))


def usual_name(job: JobConfig) -> str:
    """What a run is called until somebody renames it."""
    return f"{Path(job.model).name} {job.title}"


def _text(field: str, value: str, least: int, most: int) -> str:
    if not least <= len(value) <= most or any(ord(c) < 32 and c not in "\n\t" for c in value):
        fail("BAD_SETTING", field=field, value=repr(value[:40]), allowed=f"{least} to {most} characters of plain text")
    return value


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
GRACE = 0.05  # seconds that who asks for a lock lets others ask


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock. Other askers hold it for an instant, so ask for a little longer."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=GRACE, poll_interval=GRACE / 5):
            return False
    except Timeout:
        return True
