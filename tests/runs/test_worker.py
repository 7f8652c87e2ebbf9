"""The worker process: it outlives its starter, stops when asked, and a killed one loses at most a block."""

import os
import signal
import time

import psutil
import pytest
from helpers import made_up_text, tiny_model

from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.files import sha256
from quip_engine.runs import Store, Tail, enqueue, pause, proceed, resume, start, stop

SECONDS = 90


@pytest.fixture
def job(tmp_path):
    text = tmp_path / "calibration.txt"
    text.write_text(made_up_text(3000))
    model = tiny_model(tmp_path, "llama", num_hidden_layers=6)
    calibration = CalibrationConfig(str(text), samples=16, seqlen=32)
    return JobConfig(str(model), str(tmp_path / "out"), calibration=calibration, threads=1)


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def worker_of(run):
    """The process that works on a run."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "quip_engine.runs.worker" in command and run.id in command and str(run.directory.parents[1]) in command:
            return process
    return None


def saved_blocks(run):
    return sum(record["type"] == "BlockSaved" for record in Tail(run.directory).read())


def finish(run):
    wait_for(lambda: not Store().get(run.id).alive)
    return Store().get(run.id)


def digests(job):
    from pathlib import Path

    return {path.name: sha256(path) for path in sorted(Path(job.out).iterdir())}


def test_killed_stopped_and_resumed_it_ends_with_the_same_bits(home, job, tmp_path):
    from dataclasses import replace

    whole = replace(job, out=str(tmp_path / "whole"))
    run = start(whole)
    assert run.status in ("starting", "running")
    done = finish(run)
    assert done.status == "done", done.error
    assert done.result["bits_per_weight"] > 2

    run = start(job)
    wait_for(lambda: saved_blocks(run) >= 2)
    worker_of(run).send_signal(signal.SIGKILL)
    assert finish(run).status == "interrupted"
    committed = saved_blocks(run)

    run = resume(run.id)
    wait_for(lambda: saved_blocks(run) > committed)
    pause(run.id)
    assert finish(run).status == "paused"

    run = resume(run.id)
    done = finish(run)
    assert done.status == "done"
    ticks = [[r["tick"] for r in Tail(run.directory).read() if r["turn"] == turn] for turn in range(run.turn + 1)]
    worked = [seen[-1] - seen[0] for seen in ticks if seen]
    assert len(worked) == 3 and done.result["seconds"] == pytest.approx(sum(worked), abs=0.2)
    starts = [r["resumed_at"] for r in Tail(run.directory).read() if r["type"] == "RunStarted"]
    assert starts[0] == 0 and starts[1] >= committed and starts == sorted(starts)
    assert digests(job) == digests(whole)


def test_sigterm_commits_and_exits_75(home, job):
    run = start(job)
    wait_for(lambda: saved_blocks(run) >= 1)
    worker = worker_of(run)
    os.kill(worker.pid, signal.SIGTERM)
    assert finish(run).status == "stopped"
    assert [r["type"] for r in Tail(run.directory).read()][-1] == "RunStopped"


def test_stopped_now_it_is_gone_within_three_seconds_and_goes_on_later(home, job):
    run = start(job)
    wait_for(lambda: saved_blocks(run) >= 1)
    began = time.monotonic()
    stop(run.id)
    took = time.monotonic() - began
    stopped = Store().get(run.id)
    assert (stopped.status, stopped.pid, worker_of(run)) == ("stopped", None, None)
    assert took < 3  # measured 0.1 s
    assert [r["type"] for r in Tail(run.directory).read()][-1] == "RunStopped"
    resume(run.id)
    assert finish(run).status == "done"


def test_a_worker_that_does_not_listen_is_ended(home, job):
    run = start(job)
    worker = wait_for(lambda: worker_of(run))
    wait_for(lambda: Store().get(run.id).pid)
    worker.suspend()  # it hears SIGTERM only when it goes on
    began = time.monotonic()
    stop(run.id)
    assert time.monotonic() - began < 3
    assert Store().get(run.id).status == "stopped"
    assert not worker.is_running()


def test_the_queue_goes_on_by_itself(home, job, tmp_path):
    from dataclasses import replace

    first = start(replace(job, model=job.model + "-gone"))
    second = enqueue(replace(job, out=str(tmp_path / "second")))
    third = enqueue(replace(job, out=str(tmp_path / "third")))
    wait_for(lambda: saved_blocks(second) >= 1)
    assert finish(first).status == "failed"
    pause(second.id)
    assert finish(second).status == "paused"
    assert Store().get(third.id).status == "queued"
    assert proceed().id == third.id
    wait_for(lambda: Store().get(third.id).status == "done")


def test_a_failed_run_says_why(home, job):
    from dataclasses import replace

    run = start(replace(job, model=job.model + "-gone"))
    failed = finish(run)
    assert failed.status == "failed"
    assert failed.error["error"] == "NOT_FOUND"


def test_a_worker_that_is_killed_is_explained_and_the_queue_goes_on(home, job, tmp_path):
    from dataclasses import replace

    first = start(job)
    second = enqueue(replace(job, out=str(tmp_path / "second")))
    assert second.status == "queued"
    wait_for(lambda: saved_blocks(first) >= 1)
    worker_of(first).send_signal(signal.SIGKILL)
    died = wait_for(lambda: (now := Store().get(first.id)).error and now)
    assert (died.status, died.error["error"], died.resumable) == ("interrupted", "WORKER_DIED", True)
    assert wait_for(lambda: Store().get(second.id).status == "running")
    stop(second.id)
    assert Store().get(second.id).status == "stopped"
