"""The Evaluate tab says what the log and the results say."""

import csv
import io
import json
import time

import pytest
from helpers import tiny_model

from app import evaluation_views as views
from app import results as told
from app.evaluations import Evaluations, EvaluationView
from app.figures import quality as figures
from app.figures.quality import Model
from app.live_plot import dumps
from app.measure import BUNDLED, ITSELF, OWN, Desk
from app.studio import Studio
from quip_engine import events
from quip_engine.config import EvaluationConfig, JobConfig
from quip_engine.errors import QuipError
from quip_engine.runs import EventLog, Store, Tail
from quip_engine.runs.evaluation_store import EvaluationStore

LAYERS = [
    {"name": f"model.layers.{b}.{p}", "block": b, "projection": p.rsplit(".")[-1], "kl": kl}
    for b, p, kl in ((0, "self_attn.q_proj", 0.01), (0, "mlp.down_proj", 0.05), (1, "self_attn.q_proj", 0.02))
]


def numbers(model=13.02, original=12.41, error=0.08, **changes):
    found = {"perplexity": model, "original_perplexity": original, "ratio": model / original if original else None}
    found |= {"mean_kl": 0.12, "top1_agreement": 0.91}
    return {**found, **{f"{name}_error": error for name in found}, "ratio_error": 0.003, **changes}


def result(folder="/models/small", figures_found=None, **changes):
    model = {"folder": str(folder), "name": "small", "bytes": 3_000_000, "bits_per_weight": 2.01, "bits": 2}
    original = {"folder": "/models/big", "name": "big", "bytes": 10_000_000, "bits_per_weight": 16.0, "bits": None}
    positions = [
        {"first": k + 1, "last": k + 1, "kl": 0.2 - 0.01 * k, "kl_error": 0.02, "agreement": 0.9} for k in range(8)
    ]
    blocks = [{"block": b, "error": 0.1 * (b + 1), "error_error": 0.01, "cosine": 0.99 - b / 100} for b in range(2)]
    worst = {"window": 0, "position": 3, "kl": 2.0, "context": "a <b>", "text": "x", "model": "y", "original": " z"}
    worst |= {"model_probability": 0.5, "original_probability": 0.75}
    values = {"windows": 40, "seqlen": 256, "tokens": 40 * 255, "figures": figures_found or numbers()}
    values |= {"positions": positions, "worst": [worst], "blocks": blocks, "layers": LAYERS, "tasks": [], "notes": []}
    values |= {"model": {**model, "method": "quip#"}, "original": {**original, "method": ""}}
    return {**values, "seconds": 9.0, "passes_seconds": 0.2, **changes}


@pytest.fixture
def small(home, tmp_path):
    return tiny_model(tmp_path)


def measured(home, folder, **changes):
    """A finished evaluation in the history."""
    store = EvaluationStore(home)
    row = store.create(EvaluationConfig(str(folder), str(folder), seqlen=changes.get("seqlen", 256)))
    store.update(row.id, status="done", finished=time.time(), result=result(folder, **changes))
    return store.get(row.id)


def test_the_verdict_is_one_sentence(home, small):
    said = told.verdict(measured(home, small))
    assert said == (
        "2 bits cost big 0.61 of perplexity (12.41 → 13.02, +4.9 %); most of it arises in block 0 (75 %, down above "
        "all); the models agree on 91 % of tokens."
    )
    lost_nothing = told.verdict(measured(home, small, figures_found=numbers(12.42, ratio_error=0.01)))
    assert "no more perplexity than this text can show (12.41 → 12.42, +0.1 %, ± 1.0 %)" in lost_nothing
    better = told.verdict(measured(home, small, figures_found=numbers(12.0), layers=[]))
    assert better.startswith("2 bits cost big nothing here: perplexity falls by 0.41")
    alone = {**numbers(), **dict.fromkeys(("original_perplexity", "ratio", "mean_kl", "top1_agreement"))}
    row = measured(home, small, figures_found=alone, original=None, layers=[], positions=[], blocks=[], worst=[])
    assert told.verdict(row) == "small has a perplexity of 13.02 ± 0.08 on bundled text."
    assert told.findings(row) == []
    assert views.plots(row, told.results([row], []))["along"] == {}


def test_what_the_plots_show_is_also_said(home, small):
    text, blocks, layers = told.findings(measured(home, small))
    assert text.startswith("Along the text: in the first quarter of a window KL is +44.4 % against the last; no place")
    assert "10.0 % after block 0 and by 20.0 % after block 1 (cosine 0.980)" in blocks
    assert "the worst are block 0 down 5.00e-2, block 1 q 2.00e-2" in layers


def test_every_model_has_one_line_for_each_text_and_cut(home, small):
    run = Store(home).create(JobConfig("/models/big", str(small)))
    Store(home).update(run.id, status="done")
    runs = Store(home).list()
    measured(home, small)
    measured(home, small, figures_found=numbers(13.5))  # newer
    measured(home, small, seqlen=128)
    rows = EvaluationStore(home).history()
    found = told.results(rows, runs)
    assert [(r.seqlen, r.original, r.perplexity) for r in found] == [
        (128, True, 12.41),
        (128, False, 13.02),
        (256, True, 12.41),
        (256, False, 13.5),
    ]
    assert (found[1].run, found[1].model) == (run.id, run.name)
    assert views.unmeasured(runs, found) == []
    assert [m.shown for m in told.points(found, rows[0])] == [False, True]  # 256 is another setting


def test_tables_and_files(home, small):
    row = measured(home, small)
    found = told.results([row], [])
    run = Store(home).create(JobConfig("<i>", "/nowhere"))
    shown = views.table(found, row, [run])
    assert "+0.610</span>" not in shown and "+0.61</span>" in shown and "not measured yet" in shown
    assert "<i>" not in shown.replace("<i></i>", "")
    assert "a &lt;b&gt;" in views.worst(row)
    lines = list(csv.DictReader(io.StringIO(told.results_csv(found))))
    assert [float(line["perplexity"]) for line in lines] == [12.41, 13.02]
    assert lines[1]["evaluation"] == row.id
    record = json.loads(told.results_json(found, [row]))
    assert record["results"][1]["mean_kl"] == 0.12
    assert record["evaluations"][0]["result"]["blocks"][1]["cosine"] == pytest.approx(0.98)


def view_of(row):
    """The view of a row that is still starting, from its log."""
    view = EvaluationView(row)
    for record in Tail(row.directory).read():
        view.fold(record)
    return view


def test_a_working_evaluation_is_followed(home, small):
    store = EvaluationStore(home)
    row = store.create(EvaluationConfig(str(small), str(small)))
    view = EvaluationView(row)
    assert "Loading the models" in views.live(view, time.time())
    assert views.convergence(view) == {}
    log, begun = EventLog(row.directory), time.time()
    log.append(events.EvaluationStarted(str(small), str(small), "t", 256, 10, 2, [{}] * 3, 2, [], "cpu"))
    for k in range(1, 6):
        log.append(events.WindowScored(k, numbers(), k / 10))
    follower = Evaluations(home)
    view = follower.view
    assert view.share == pytest.approx(10 / 26)  # 2 x 10 passes, and 3 x 2 with a layer alone
    assert view.remaining(view.begun + 10) == pytest.approx(16)
    shown = views.live(view, begun + 10)
    assert "13.02" in shown and "5<span" in shown
    drawn = views.convergence(view)
    assert drawn["layout"]["xaxis"]["range"] == [1, 10]
    store.update(row.id, status="running")
    follower.refresh()
    assert views.strip(follower.view, time.time()) is None  # interrupted: there is no worker
    assert "window 5 of 10" in views.strip(view_of(row), time.time())
    log.append(events.LayerCompared("a", 0, "q", 0.1, 1))
    follower.refresh()
    assert follower.view.layers == 1


def test_one_that_failed_says_why_until_the_next(home, small):
    store = EvaluationStore(home)
    row = store.create(EvaluationConfig(str(small)))
    store.update(
        row.id, status="failed", error={"error": "NO_GPU", "message": "There is none.", "hint": "Use the CPU."}
    )
    banner = views.trouble(store.get(row.id), None)
    assert "NO_GPU" in banner and "There is none." in banner
    store.update(row.id, status="running")
    assert "WORKER_DIED" in views.trouble(store.get(row.id), None)
    assert views.trouble(None, None) is None


def test_figures_hold_what_they_show():
    models = [Model("big", 10, 5.0, 0.1, True, False), Model("a", 3, 6.0, 0.1, False, True)]
    models += [Model("b", 3, 9.0, None, False, False), Model("c", 5, 5.5, 0.1, False, False)]
    assert [m.name for m in figures.frontier(models)] == ["a", "c", "big"]
    drawn = figures.quality(models, "eval-1")
    quantized, original = drawn["data"][1:]
    assert (quantized["y"], original["y"]) == ([6.0, 9.0, 5.5], [5.0])
    assert quantized["error_y"]["array"] == [0.1, 0, 0.1]
    steep = figures.quality([models[0], Model("worse", 3, 900.0, None, False, True)], "eval-1")
    assert steep["layout"]["yaxis"]["type"] == "log"
    values = result()
    drawn = [drawn, figures.along_text(values["positions"], "x"), figures.block_damage(values["blocks"], "x")]
    drawn.append(figures.convergence([(k, numbers()) for k in range(1, 1000)], 2000, "x"))
    for figure in drawn:
        text = dumps(figure)  # strict JSON
        assert "#" not in text  # token names, no colours
        assert len(text) < 12_000
        assert figure["summary"]


def test_the_form_makes_a_job_or_says_what_is_wrong(home, small, tmp_path):
    desk = Desk(Studio(home))
    rest = (32, 0, True, [], 100)
    job = desk.job(str(small), ITSELF, BUNDLED, "", *rest)
    assert job == EvaluationConfig(str(small), "", seqlen=32)  # nobody knows its original
    run = Store(home).create(JobConfig("/models/big", str(small)))
    Store(home).update(run.id, status="done")
    desk.studio.follower.refresh()
    assert desk.job(str(small), ITSELF, BUNDLED, "", *rest).against == "/models/big"
    assert desk.models()[0][1] == str(small)
    assert desk.context(str(small)) == 64
    for wrong in ((1, 0, True, [], 100), (32, -1, True, [], 100), (32, 2.5, True, [], 100), (32, 0, True, [], 0)):
        with pytest.raises(QuipError):
            desk.job(str(small), "", BUNDLED, "", *wrong)
    for text in ("", "/no/such/file", str(tmp_path)):
        with pytest.raises(QuipError):
            desk.job(str(small), "", OWN, text, *rest)
    assert "through one model" in desk.price(str(small), "", BUNDLED, "", *rest)
    assert "NOT_FOUND" in desk.price("/no/such/model", "", BUNDLED, "", *rest)
