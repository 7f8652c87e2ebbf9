from story import layer, layer_names, started

from app import guarantee
from app.state import RunView
from quip_engine import events
from quip_engine.config import JobConfig
from quip_engine.runs import Store

THEORY = {"feedback": 0.5, "energy": 1.0, "flatness": 0.25, "limit": 0.008, "distance": 0.16, "block": 8, "mse": 0.05}


def view(tmp_path, theory: dict) -> RunView:
    found = RunView(Store(tmp_path).create(JobConfig("/models/tiny", str(tmp_path / "out"))))
    names = layer_names()
    for k, event in enumerate((started(names), *(layer(name, 0.01, theory=theory) for name in names))):
        found.fold({**events.to_json(event), "time": float(k), "seq": k})
    return found


def test_the_lines_of_a_layer_are_those_of_the_papers(tmp_path):
    found, lines = guarantee.lines_of(next(iter(view(tmp_path, THEORY).layers.values())))
    assert (lines.nearest, lines.average) == (0.05, 0.025)
    assert lines.incoherence == 8 * 0.05 * 0.25 * 4.0**2  # mu of the story's layers is 4
    assert (found.distance, lines.limit) == (0.16, 0.008)


def test_the_figure_has_every_line_and_the_table_every_layer(tmp_path):
    run = view(tmp_path, THEORY)
    figure = guarantee.plot(run)
    assert [trace["name"] for trace in figure["data"]] == ["incoherence", "average", "limit", "measured"]
    table = guarantee.table(run)
    assert table.count("<tr>") == 1 + len(run.layers)
    assert "0.40" in table  # the measured .01 of the average case .025
    assert "1.25 times the least" in guarantee.verdict(run)
    assert "Feedback leaves 50 %" in guarantee.verdict(run)


def test_logs_without_theory_show_none(tmp_path):
    run = view(tmp_path, {})
    assert guarantee.plot(run) == {}
    assert "as soon as" in guarantee.verdict(run)  # it has just been started
    assert "–" in guarantee.table(run)


def test_wide_layers_show_what_is_known(tmp_path):
    run = view(tmp_path, {**THEORY, "flatness": None, "limit": None, "distance": None})
    assert [trace["name"] for trace in guarantee.plot(run)["data"]] == ["average", "measured"]
    assert "times the least" not in guarantee.verdict(run)


def test_unknown_keys_of_a_later_version_are_left_out(tmp_path):
    _, lines = guarantee.lines_of(next(iter(view(tmp_path, {**THEORY, "later": 1.0}).layers.values())))
    assert lines.average == 0.025
