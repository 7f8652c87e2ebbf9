"""Runs: a directory that holds the truth, a row of history, and a worker process that owns both.

    <home>/runs/<id>/job.json       what was asked for
                     events.jsonl   what happened, append-only; one event a line with ``seq`` and ``time``
                     worker.lock    held by the worker for as long as it lives
                     STOP           somebody asked it to end after the current layer (pause)
                     work/          finished blocks and the activations between them
    <home>/history.sqlite           one row a run

Command line and app start workers, read files and leave STOP notes; only who holds the lock writes events and status.
"""

from quip_engine.runs.client import active, pause, resume, start, stop
from quip_engine.runs.log import EventLog, Tail
from quip_engine.runs.queue import enqueue, proceed
from quip_engine.runs.store import Run, Store

__all__ = ["EventLog", "Run", "Store", "Tail", "active", "enqueue", "pause", "proceed", "resume", "start", "stop"]
