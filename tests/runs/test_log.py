"""The event log survives a writer that dies in the middle of a line."""

import pytest

from quip_engine import events
from quip_engine.runs import EventLog, Tail


def test_events_come_back_as_they_went_in(tmp_path):
    log = EventLog(tmp_path)
    sent = [
        events.PhaseChanged("check"),
        events.LayerSkipped("model.layers.0.x", 0, "because"),
        events.RunStopped(block=3),
    ]
    for event in sent:
        log.append(event)
    records = Tail(tmp_path).read()
    assert [events.from_json(r) for r in records] == sent
    assert [r["seq"] for r in records] == [0, 1, 2]


def test_tail_reads_only_what_is_new_and_whole(tmp_path):
    log, tail = EventLog(tmp_path), Tail(tmp_path)
    assert tail.read() == []
    log.append(events.PhaseChanged("check"))
    assert len(tail.read()) == 1
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"seq": 1, "type": "Pha')
    assert tail.read() == []
    assert Tail(tmp_path, from_end=True).read() == []


def test_a_torn_line_is_cut_off_by_the_next_writer(tmp_path):
    EventLog(tmp_path).append(events.PhaseChanged("check"))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"seq": 1, "type": "Pha')
    EventLog(tmp_path).append(events.PhaseChanged("quantize"))
    records = Tail(tmp_path).read()
    assert [r["phase"] for r in records] == ["check", "quantize"]
    assert [r["seq"] for r in records] == [0, 1]


def test_a_signal_in_the_middle_of_an_event_leaves_no_two_of_a_number(tmp_path, monkeypatch):
    log = EventLog(tmp_path)
    log.append(events.PhaseChanged("check"))
    written = log._write

    def cut_off(line):
        written(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "_write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        log.append(events.PhaseChanged("calibrate"))
    monkeypatch.setattr(log, "_write", written)
    log.append(events.RunStopped(0))
    log.close()
    assert [record["seq"] for record in Tail(tmp_path).read()] == [0, 1, 2]


def test_fields_of_a_later_version_are_left_out():
    record = {"type": "PhaseChanged", "phase": "check", "note": "", "mood": "fine", "seq": 0, "time": 1.0}
    assert events.from_json(record) == events.PhaseChanged("check")


def test_a_block_counts_although_its_worker_ended_before_it_told(tmp_path):
    log = EventLog(tmp_path)
    log.append(events.BlockSaved(0, 1, "0" * 64, 1.0, 1.0))
    assert log.saved_blocks() == 1
    log.append(events.RunStarted("m", "A", {}, {}, 4, [], 0, 0, "cpu", 2))
    log.append(events.BlockSaved(2, 1, "0" * 64, 1.0, 1.0))
    assert log.saved_blocks() == 3


def test_waiting_between_workers_is_no_work(tmp_path, monkeypatch):
    monkeypatch.setattr("quip_engine.runs.log.time.monotonic", lambda: next(ticks))
    ticks = iter([5.0, 7.5, 100.0, 104.0, 2.0, 3.0])  # before the third turn the machine was started anew
    for turn in (1, 1, 2, 2, 3, 3):
        log = EventLog(tmp_path, turn)
        log.append(events.PhaseChanged("check"))
        log.close()
    assert EventLog(tmp_path, 1).seconds_before() == 4.0 + 1.0
    assert EventLog(tmp_path, 3).seconds_before() == 2.5 + 4.0
    assert EventLog(tmp_path, 4).seconds_before() == 7.5
