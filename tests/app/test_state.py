"""The page shows what the log says, whoever wrote it and whenever it is read."""

import time

import pytest
from story import layer, layer_names, started, tell

from app import journal, layer_table, views
from app.state import Follower, RunView, explain, read_view, short_names
from quip_engine import events
from quip_engine.errors import QuipError
from quip_engine.runs import Store, Tail


def test_a_view_is_the_fold_of_its_log(home):
    run, _, names = tell(Store(home))
    view = read_view(run)
    assert (len(view.layers), view.total, sorted(view.blocks)) == (6, 9, [0, 1])
    assert view.upcoming() == ("q", 2)
    assert view.mean_loss == pytest.approx(0.01)
    assert view.bits_per_weight == pytest.approx(2.1)
    assert [p.lane for p in view.points()[:3]] == ["q", "o", "down"]
    assert view.axis.names == ("q", "o", "down")
    assert names[0]["name"] in view.layers


def test_following_a_log_equals_reading_it_at_once(home):
    store = Store(home)
    follower = Follower(home)
    run, log, names = tell(store)
    follower.refresh()
    before = follower.revision
    follower.refresh()
    assert follower.revision == before  # nothing new, nothing to send
    log.append(layer(names[6], 0.02))
    follower.refresh()
    assert follower.revision == before + 1
    assert follower.view.layers == read_view(run).layers
    assert Follower(home).view.layers == follower.view.layers  # another server sees the same


def test_a_torn_line_waits_for_its_end(home):
    run, log, names = tell(Store(home))
    follower = Follower(home)
    log.close()
    with (run.directory / "events.jsonl").open("ab") as file:
        file.write(b'{"seq": 99, "type": "Phase')
        file.flush()
        follower.refresh()
        assert follower.view.phase == "quantize"
        file.write(b'Changed", "time": 1.0, "phase": "pack", "note": ""}\n')
    follower.refresh()
    assert follower.view.phase == "pack"
    assert len(Tail(run.directory).read()) == len(follower.view.log)
    assert names


def test_events_of_a_newer_version_are_skipped(home):
    run, _, _ = tell(Store(home))
    view = read_view(run)
    before = len(view.log)
    view.fold({"seq": 1, "time": 1.0, "type": "LayerAdmired"})
    assert len(view.log) == before


def test_a_resumed_block_counts_once(home):
    run, log, names = tell(Store(home))
    log.append(started(names, resumed_at=1))
    log.append(events.PhaseChanged("quantize"))
    log.append(layer(names[3], 0.5))
    view = read_view(run)
    assert len(view.layers) == 6
    assert list(view.layers)[-1] == names[3]["name"]
    assert view.layers[names[3]["name"]].rel_proxy == 0.5


def test_time_left_needs_three_layers_and_follows_their_pace(home):
    names = layer_names()
    view = RunView(tell(Store(home))[0])
    view.fold({"time": 100.0, **events.to_json(started(names))})
    view.fold({"time": 100.0, **events.to_json(events.PhaseChanged("quantize"))})
    for k in range(2):
        view.fold({"time": 102.0 + 2 * k, **events.to_json(layer(names[k]))})
    assert view.remaining(104.0) is None
    view.fold({"time": 106.0, **events.to_json(layer(names[2]))})
    assert view.remaining(106.0) == pytest.approx(12.0)  # six layers of two seconds
    assert view.remaining(110.0) == pytest.approx(8.0)
    assert view.remaining(1000.0) == 0.0


@pytest.mark.parametrize("jump", [-86400.0, 365 * 86400.0])
def test_no_time_is_negative_when_the_time_of_day_jumps(home, jump):
    names = layer_names()
    store = Store(home)
    run = tell(store)[0]
    view = RunView(run)
    view.fold({"time": 1e9, "tick": 100.0, **events.to_json(started(names))})
    for k in range(3):
        view.fold({"time": 1e9 + jump, "tick": 102.0 + 2 * k, **events.to_json(layer(names[k]))})
    assert view.remaining(108.0) == pytest.approx(10.0)
    assert (view.begun, view.heard) == (100.0, 106.0)
    store.update(run.id, status="stopped", created=1e9, started=1e9, finished=1e9 + jump)
    again = tell(store)[0]  # it begins later, whatever the time of day says
    store.update(again.id, created=1e9 + jump, started=1e9 + jump)
    follower = Follower(home)
    assert follower.view.run.id == again.id
    assert run.turn < again.turn == follower.since


def test_the_run_before_is_the_last_finished_one_of_the_same_model(home):
    store = Store(home)
    first, *_ = tell(store, 0.02)
    store.update(first.id, status="done", finished=1.0)
    other, *_ = tell(store, 0.5, "/models/other")
    store.update(other.id, status="done", finished=2.0)
    tell(store)
    follower = Follower(home)
    assert follower.previous.run.id == first.id
    assert "−50.0 %" in views.numbers(follower.view, follower.previous, time.time())


def test_short_names_tell_layers_apart():
    gpt2 = layer_names(1, ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
    assert list(short_names(gpt2).values()) == ["attn", "attn proj", "fc", "mlp proj"]
    opt = layer_names(1, ("self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"))
    assert list(short_names(opt).values()) == ["q", "out", "fc1", "fc2"]


def test_markup_of_a_model_is_text(home):
    names = layer_names(1, ("<img src=x>.q_proj",))
    run, log, _ = tell(Store(home), model="/models/<script>alert(1)</script>")
    log.append(started(names, model="/models/<b>"))
    log.append(layer({**names[0], "name": names[0]["name"]}, notes=["<i>note</i>"]))
    log.append(events.Warned("X", "<u>warning</u>"))
    view = read_view(run)
    shown = "".join([views.head(view), layer_table.table(view, None), journal.log(view), views.strip(view, 0.0, 0.0)])
    for tag in ("<script", "<img", "<b>/", "<i>note", "<u>"):
        assert tag not in shown


def test_every_state_has_its_words(home):
    store = Store(home)
    run, _, _ = tell(store)
    for status, word in {"done": "now", "failed": "failed at layer 7", "stopped": "stopped"}.items():
        store.update(run.id, status=status, finished=time.time(), error={"error": "DISK_FULL", "message": "Full."})
        view = Follower(home).view
        assert word in views.head(view)
        banner = views.trouble(view)
        assert (banner is not None) == (status == "failed")
    assert "2 blocks of 3 are saved" in (views.trouble(_with(view, "failed")) or "")
    assert "WORKER_DIED" in (views.trouble(_with(view, "interrupted")) or "")


def _with(view: RunView, status: str) -> RunView:
    view.run = type(view.run)(**{**vars(view.run), "status": status})
    return view


def test_the_csv_has_a_row_a_layer(home):
    run, _, _ = tell(Store(home))
    lines = layer_table.as_csv(read_view(run)).splitlines()
    assert lines[0].startswith("name,block,projection,rows,columns")
    assert lines[1].startswith("model.layers.0.self_attn.q_proj,0,q_proj,64,32,2.1,0.01")
    assert len(lines) == 7


def test_the_layer_table_shows_what_was_chosen_by_trial_where_it_was(home):
    run, log, names = tell(Store(home))
    assert "Transform" not in layer_table.table(read_view(run), None)
    log.append(started(names, recipe={**started(names).recipe, "rivals": [{}] * 4}))
    log.append(layer(names[0], transform="hadamard sides=output"))
    view = read_view(run)
    shown = layer_table.table(view, None)
    assert "Transform" in shown and "hadamard sides=output" in shown
    assert "× ldlq or 3 others, by trial for each layer" in views.recipe_line(view)
    assert "transform" in layer_table.as_csv(view).splitlines()[0]


def test_defects_are_named_as_such():
    known = QuipError("BUSY", "x", "y")
    assert explain(known) is known
    assert explain(ValueError("odd")).code == "DEFECT"
