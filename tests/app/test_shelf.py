"""The Runs tab in plain values: what is listed, found, compared and told."""

import pytest
from story import layer_names, started, tell

from app import shelf as look
from app.page import Choices, Shelf
from app.report import PLOTLY_HERE, report
from app.results import Result
from app.shelf_desk import ShelfDesk
from app.state import read_view
from app.studio import Studio
from quip_engine import events
from quip_engine.runs import Store, queue
from quip_engine.runs.sharing import Transfer

RESULT = {
    "type": "RunFinished",
    "out": "/out",
    "method": "quip#",
    "bits": 2,
    "bits_per_weight": 2.03,
    "bytes": 5_000_000,
}
RESULT |= {"seconds": 42.0, "peak_rss_mb": 1.0, "mean_rel_proxy": 0.0121, "skipped": []}


def measured(run_id="run-1"):
    values = dict.fromkeys(Result.__dataclass_fields__)
    values |= {
        "evaluation": "eval-1",
        "model": "tiny",
        "run": run_id,
        "text": "bundled text",
        "windows": 2,
        "seqlen": 64,
    }
    values |= {"perplexity": 12.41, "perplexity_error": 0.08, "mean_kl": 0.061, "top1_agreement": 0.87, "when": 1.0}
    return Result(**values)


def done(store, **changes):
    run, log, _ = tell(store)
    log.append(events.LayerSkipped("model.layers.2.<b>x", 2, "because"))
    store.update(run.id, status="done", started=1.0, finished=43.0, result=RESULT, **changes)
    return store.get(run.id)


def test_the_table_says_what_came_of_each(home):
    store = Store(home)
    run = done(store)
    markup = look.table([run], None, {"run-1": measured()}, Shelf(run="run-1", marked=("run-1",)))
    for said in (
        "run 1",
        "tiny",
        "quip#",
        "done",
        "2.03",
        "1.21e-2",
        "12.41",
        "5.00 MB",
        "42 s",
        'aria-checked="true"',
    ):
        assert said in markup
    assert 'class="chosen"' in markup
    store.update(run.id, status="paused", result=None)
    markup = look.table([store.get(run.id)], None, {}, Shelf())
    assert "paused" in markup and "resume:run-1" in markup and "chosen" not in markup


def test_names_tags_and_notes_are_text(home):
    store = Store(home)
    done(store)
    run = store.describe("run-1", name="<img src=x>", note="<script>", tags=["<b>"])
    view = read_view(run)
    shown = look.table([run], view, {}, Shelf()) + look.card(run, view, None) + look.queue([run], [], False)
    page = report(view, measured(), plotly="")
    for tag in ("<img src=x", "<script><", "<b>x", 'tag"><b>'):
        assert tag not in shown + page


def test_the_filter_finds_every_word_in_any_case(home):
    store = Store(home)
    done(store)
    done(store)
    store.describe("run-2", name="the good one", tags=["paper"])
    runs = store.list()
    for words, found in (("PAPER", ["run-2"]), ("run 1", ["run-1"]), ("done quip#", ["run-2", "run-1"]), ("no", [])):
        assert [run.id for run in look.matching(runs, words)] == found


def test_runs_side_by_side_show_only_differences(home):
    store = Store(home)
    first, second = done(store), done(store)
    markup = look.differences([second, first], {"run-1": measured()})
    assert "They differ in nothing but their results." in markup
    assert "12.41" in markup
    other = store.get("run-2")
    changed = type(other)(**{**vars(other), "job": type(other.job)(other.job.model, "/o", seed=5)})
    markup = look.differences([changed, first], {})
    assert "Seed" in markup and "Calibration" not in markup


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        (Transfer("export", "/to", done=5_000_000, total=10_000_000), "5.00 MB of 10.0 MB"),
        (Transfer("push", "o/n", status="done", address="https://huggingface.co/o/n"), "Push finished."),
        (
            Transfer("push", "o/n", status="failed", error={"error": "NO_TOKEN", "message": "m", "hint": "h"}),
            "NO_TOKEN",
        ),
        (Transfer("export", "/to", status="cancelled"), "was cancelled"),
        (Transfer("export", "/to", status="interrupted"), "without a word"),
    ],
)
def test_a_transfer_tells_where_it_stands(transfer, said):
    assert said in look.transfer(transfer)


def test_a_report_is_one_file_with_everything(home):
    store = Store(home)
    run = done(store, note="mind the gap")
    text = report(read_view(run), measured(), plotly="PLOTLY")
    for said in ("mind the gap", "12.41 ± 0.08", "model.layers.2.&lt;b&gt;x", "block 1 · down", "--method", "PLOTLY"):
        assert said in text
    assert PLOTLY_HERE not in text
    assert "http://" not in text and "https://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert report(read_view(run), None, plotly="").count(PLOTLY_HERE) == 1
    assert layer_names() and started


@pytest.fixture
def desk(home):
    return ShelfDesk(Studio(home))


def test_what_is_chosen_marked_and_opened(desk):
    done(desk.studio.follower.store)
    done(desk.studio.follower.store)
    desk.studio.follower.refresh()
    choices, _, _ = desk.act(Choices(), "select:run-1")
    assert choices.shelf.run == "run-1" and desk.chosen(choices).id == "run-1"
    for run_id in ("run-1", "run-2"):
        choices, _, _ = desk.act(choices, f"mark:{run_id}")
    assert choices.shelf.marked == ("run-1", "run-2")
    choices, _, _ = desk.act(choices, "mark:run-1")
    assert choices.shelf.marked == ("run-2",)
    choices, tab, _ = desk.act(choices, "open:run-1")
    assert choices.run == "run-1" and tab.selected == "Monitor"
    _, _, banner = desk.act(choices, "select:../../etc")
    assert "RUN_NOT_FOUND" in banner["value"]


def test_a_run_is_described_and_deleted(desk):
    done(desk.studio.follower.store)
    desk.studio.follower.refresh()
    choices = Choices(shelf=Shelf(run="run-1", panel="edit", marked=("run-1",)))
    after, _ = desk.describe(choices, "good", "a, b ,", "note")
    run = desk.studio.follower.store.get("run-1")
    assert (run.name, run.tags, run.note, after.shelf.panel) == ("good", ("a", "b"), "note", "")
    _, banner = desk.describe(choices, "", "", "")
    assert "BAD_SETTING" in banner["value"]
    _, banner = desk.delete(choices, True)  # its folder was never made
    assert "NOT_YOURS" in banner["value"]
    after, _ = desk.delete(choices, False)
    assert desk.studio.follower.runs == [] and after.shelf == Shelf()


def test_the_queue_is_arranged(desk, monkeypatch):
    monkeypatch.setattr(queue, "begin", lambda *_: None)
    store = desk.studio.follower.store
    job = done(store).job
    store.update("run-1", status="paused", holds=1, result=None)
    for _ in range(2):
        queue.enqueue(job, desk.studio.home)
    desk.act_on_queue("down:run-2")
    assert [run.id for run in store.queue()] == ["run-3", "run-2"]
    shown = look.queue(store.queue(), queue.holders(desk.studio.home), False)
    assert "run 1 is paused" in shown
    desk.act_on_queue("remove:run-3")
    assert [run.id for run in store.queue()] == ["run-2"]
    assert "NOT_QUEUED" in desk.act_on_queue("up:run-1")["value"]
    desk.proceed()
    assert store.queue() == []
