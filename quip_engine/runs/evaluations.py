"""Evaluations: started, stopped and found again like runs; one worker at a time works on a run or an evaluation.

<home>/evaluations/<id>/events.jsonl   what happened, as in runs
                        worker.lock    held by the worker for as long as it lives
                        STOP           somebody asked it to end: it does so at once, and nothing is kept
<home>/history.sqlite                  one row an evaluation, with its result
"""

from __future__ import annotations

from pathlib import Path

from quip_engine.config import EvaluationConfig
from quip_engine.runs.client import refuse_second, starting
from quip_engine.runs.evaluation_store import Evaluation, EvaluationStore, content_of
from quip_engine.runs.spawn import spawn

__all__ = ["Evaluation", "active", "content_of", "delete", "get", "history", "latest_for", "start", "stop"]


def start(job: EvaluationConfig, home: Path | None = None, *, again: bool = False) -> Evaluation:
    """The evaluation of ``job``: one that is done already, or (and always with ``again``) a new one at work.

    Raises ``BUSY`` while another, or a run, is working, and the errors of names that are no folders or files.
    """
    store = EvaluationStore(home)
    if not again and (found := store.same(job)):
        return found
    with starting(store.history_of_runs):
        refuse_second(store.history_of_runs)
        row = store.create(job)
        spawn("quip_engine.runs.evaluation_worker", store.home, row.id, row.directory)
    return store.get(row.id)


def stop(name: str, home: Path | None = None) -> None:
    """Ask the worker to end now."""
    row = EvaluationStore(home).get(name)
    if row.alive:
        (row.directory / "STOP").touch()


def active(home: Path | None = None) -> Evaluation | None:
    """The evaluation that a worker is busy with now, if any."""
    return EvaluationStore(home).active()


def history(home: Path | None = None) -> list[Evaluation]:
    """All evaluations, newest first."""
    return EvaluationStore(home).history()


def get(name: str, home: Path | None = None) -> Evaluation:
    """Raises ``EVALUATION_NOT_FOUND``."""
    return EvaluationStore(home).get(name)


def delete(name: str, home: Path | None = None) -> None:
    """Remove an evaluation and its files. Raises ``BUSY`` while it works."""
    EvaluationStore(home).delete(name)


def latest_for(folder: Path, home: Path | None = None) -> Evaluation | None:
    """The newest finished evaluation of what is in a model folder now; one with an original comes first."""
    return EvaluationStore(home).latest_for(folder)
