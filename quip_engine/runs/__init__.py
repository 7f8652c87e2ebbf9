"""Runs: a directory that holds the truth, a row of history, and a worker process that owns both.

    <home>/runs/<id>/events.jsonl   what happened, append-only; one event a line with ``seq`` and ``time``
                     worker.lock    held by the worker for as long as it lives
                     STOP           somebody asked it to end after the current layer (pause)
                     work/          what is finished so far (``workspace``)
    <home>/history.sqlite           one row a run: what was asked for, what became of it

Command line and app start workers, read files and leave STOP notes; only who holds the lock writes events and status.
"""

from quip_engine.runs.client import active, pause, resume, start, stop
from quip_engine.runs.last_words import settle
from quip_engine.runs.log import EventLog, Tail
from quip_engine.runs.queue import enqueue, proceed
from quip_engine.runs.store import Run, Store

__all__ = [
    "EventLog",
    "Run",
    "Store",
    "Tail",
    "active",
    "enqueue",
    "pause",
    "proceed",
    "resume",
    "settle",
    "start",
    "stop",
]
