"""``runs`` from the command line: what is listed, described, queued and deleted."""

import json

import pytest

from quip_engine.cli import main
from quip_engine.config import JobConfig
from quip_engine.runs import Store


@pytest.fixture
def call(home, capsys):
    def run(*words):
        status = main(["runs", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def store(home, tmp_path):
    """Two runs: one that failed, one that waits."""
    found = Store()
    job = JobConfig(str(tmp_path / "a-model"), str(tmp_path / "out"))
    found.update(found.create(job).id, status="failed")
    found.create(job, queued=True)
    return found


def test_the_history_and_the_queue_are_listed(store, call):
    assert [run["id"] for run in call()[1]] == ["run-2", "run-1"]
    assert [run["id"] for run in call("--queue")[1]] == ["run-2"]


def test_runs_are_described(store, call):
    assert call("rename", "run-1", "the good one")[1]["name"] == "the good one"
    assert call("note", "run-1", "a note")[1]["note"] == "a note"
    assert call("tag", "run-1", "a", "b")[1]["tags"] == ["a", "b"]
    assert call("tag", "run-1")[1]["tags"] == []
    assert call("rename", "run-9", "x") == (2, {**call("rename", "run-9", "x")[1], "error": "RUN_NOT_FOUND"})


def test_deleting_needs_a_yes(store, call):
    assert call("delete", "run-1")[1]["deleted"] is False
    assert len(store.list()) == 2
    assert call("delete", "run-1", "--yes")[1]["deleted"] is True
    assert [run.id for run in store.list()] == ["run-2"]


def test_the_queue_is_arranged(store, call):
    assert call("move", "run-1", "1")[1]["error"] == "NOT_QUEUED"
    assert call("remove", "run-2") == (0, [])
    assert call("proceed") == (0, {})
    assert call("pause") == (0, {})
    assert call("stop") == (0, {})


def test_only_finished_runs_are_shared(store, call, tmp_path):
    assert call("export", "run-1", str(tmp_path / "x"))[1]["error"] == "MODEL_GONE"
    assert call("push", "run-1", "owner/name")[1]["error"] == "MODEL_GONE"
