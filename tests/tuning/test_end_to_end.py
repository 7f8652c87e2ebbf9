"""End-to-end tuning: what is trained is what is stored, KL falls, stops cost nothing, no worse model is taken."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events
from quip_engine.checkpoint import read_manifest
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import QuipError, Stopped
from quip_engine.evaluate import kl_rows, predict
from quip_engine.files import sha256
from quip_engine.layer import quantize_weight
from quip_engine.linear import QuantizedLinear
from quip_engine.loading import load_model
from quip_engine.methods.registry import resolve
from quip_engine.pipeline import quantize_model
from quip_engine.plan import make_plan
from quip_engine.tuning import cost
from quip_engine.tuning import teacher as teaching
from quip_engine.tuning.continuous import TunedLinear
from quip_engine.tuning.signs import relaxed

TUNING = TuningConfig(("end-to-end",), samples=40, batch=6, steps=8, rate=1e-2, patience=8)
CPU = torch.device("cpu")


def job_for(tmp_path, model, out="out", **changes):
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(2000))
    calibration = CalibrationConfig(str(text), samples=8, seqlen=24)
    usual = {"recipe": RecipeConfig("quip#", 2), "calibration": calibration, "threads": 1, "tuning": TUNING}
    return JobConfig(str(model), str(tmp_path / out), **{**usual, **changes})


def run(job, workspace, stop=lambda: False):
    return list(quantize_model(job, workspace, stop))


def digests(folder):
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir())}


def layer_of(method, m=32, n=48, **options):
    generator = torch.Generator().manual_seed(1)
    W, X = torch.randn(m, n, generator=generator), torch.randn(4 * n, n, generator=generator)
    recipe = resolve(RecipeConfig(method, 2 if method != "optq" else 3, options=options))
    return QuantizedLinear.from_quantized(quantize_weight(W, X.T @ X, recipe), torch.randn(m, generator=generator))


@pytest.mark.parametrize("method", ["nearest", "optq", "quip", "quip#", "qtip", "icquant"])
def test_a_tuned_layer_is_the_packed_one_and_has_its_gradients(method):
    packed = layer_of(method)
    tuned = TunedLinear(packed)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(tuned(x), packed(x), rtol=1e-4, atol=1e-4)
    for name in dict(tuned.named_parameters()):
        stored = packed.get_parameter(name)
        changed = (stored.float() * 1.25).to(stored.dtype)
        tuned.get_parameter(name).data.copy_(changed.float())
        with torch.no_grad():
            stored.copy_(changed)
    torch.testing.assert_close(tuned(x), packed(x), rtol=1e-3, atol=1e-3)
    tuned(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in tuned.named_parameters() if name != "bias")


def test_signs_made_real_compute_the_same():
    packed = layer_of("quip#")
    assert relaxed(packed, "never") is None
    assert relaxed(packed, "auto") is None  # a layer this small would pay 1.2 bits
    made = relaxed(packed, "always")
    x = torch.randn(5, 48)
    torch.testing.assert_close(made(x), packed(x))
    assert {"input_vector", "output_vector"} <= dict(TunedLinear(made).named_parameters()).keys()
    assert relaxed(layer_of("waterfill", 96, 96, sides="both"), "always") is None  # its rate has no room for them


def kl_on(tokens, out, original):
    model, other = load_model(out, CPU)[0], load_model(original, CPU)[0]
    rows = [kl_rows(*(predict(m, window).log_softmax(-1) for m in (other, model))) for window in tokens]
    return float(torch.cat(rows).mean())


@pytest.mark.parametrize("method", ["quip#", "icquant"])
def test_the_finished_folder_is_the_model_that_was_judged(tmp_path, method):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16, tie_word_embeddings=True)
    job = job_for(tmp_path, model, recipe=RecipeConfig(method, 2))
    found = run(job, tmp_path / "work")
    started = next(e for e in found if isinstance(e, events.TuningStarted))
    finished = next(e for e in found if isinstance(e, events.TuningFinished))
    assert (started.windows, started.held_out, started.steps) == (36, 4, 8)
    assert finished.taken and finished.kl < 0.9 * finished.kl_before == 0.9 * started.kl  # 0.83, 0.71
    result = read_manifest(tmp_path / "out")["tuning"]["results"]
    assert result == [
        {"stage": "end-to-end", **{k: getattr(finished, k) for k in ("steps", "kl_before", "kl", "taken")}}
    ]
    last = make_plan(job, resumed=True).tuning_tokens[-4:]
    all_positions = torch.cat([last, last[:, :1]], 1)  # ``predict`` leaves the last one out
    assert kl_on(all_positions, tmp_path / "out", model) == pytest.approx(finished.kl, rel=1e-2)


def test_the_same_job_gives_the_same_files_however_often_stopped(tmp_path):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    run(job_for(tmp_path, model, "whole"), tmp_path / "work-whole")
    job, tuned, stops = job_for(tmp_path, model), 0, 0

    def stop():
        return tuned >= 2

    while True:
        tuned = 0
        try:
            for event in quantize_model(job, tmp_path / "work", stop):
                tuned += isinstance(event, events.TuningProgress)
            break
        except Stopped as stopped:
            assert stopped.args[0] == 2
            stops += 1
    assert stops == 3
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_tuning_that_finds_nothing_better_is_not_taken_and_says_so(tmp_path):
    model = tiny_model(tmp_path, "llama")
    run(job_for(tmp_path, model, "plain", tuning=TuningConfig()), tmp_path / "work-plain")
    found = run(job_for(tmp_path, model, tuning=replace(TUNING, rate=1.0, patience=2)), tmp_path / "work")
    assert not next(e for e in found if isinstance(e, events.TuningFinished)).taken
    assert "TUNING_NOT_BETTER" in [e.code for e in found if isinstance(e, events.Warned)]
    weights = [{n: d for n, d in digests(tmp_path / out).items() if "safetensors" in n} for out in ("plain", "out")]
    assert weights[0] == weights[1]


def test_a_tuning_that_diverges_says_so_and_keeps_the_best(tmp_path, monkeypatch):
    exact, calls = teaching.Teacher.divergence, []

    def broken(self, student, windows, hidden, share=None):
        calls.append(share)
        found = exact(self, student, windows, hidden, share)
        return float("nan") if share is not None and sum(s is not None for s in calls) == 6 else found

    monkeypatch.setattr(teaching.Teacher, "divergence", broken)
    found = run(job_for(tmp_path, tiny_model(tmp_path, "llama")), tmp_path / "work")
    assert "TUNING_DIVERGED" in [e.code for e in found if isinstance(e, events.Warned)]
    assert next(e for e in found if isinstance(e, events.TuningFinished)).steps == 3


def test_logits_of_all_tokens_never_exist_together(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "LOGITS", 1 << 14)
    sizes = []
    exact = teaching.predictions

    def counted(*args):
        found = exact(*args)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(teaching, "predictions", counted)
    job = job_for(tmp_path, tiny_model(tmp_path, "llama", dtype=torch.bfloat16), tuning=replace(TUNING, steps=2))
    run(job, tmp_path / "work")
    assert max(sizes) <= 1 << 14 < job.calibration.seqlen * 264 * 36
    whole = replace(job, out=str(tmp_path / "whole"))
    monkeypatch.setattr(teaching, "LOGITS", 1 << 22)
    run(whole, tmp_path / "work-whole")
    kl = [read_manifest(tmp_path / out)["tuning"]["results"][0]["kl"] for out in ("out", "whole")]
    assert kl[0] == pytest.approx(kl[1], rel=1e-3)


def test_too_little_text_and_encoders_are_refused(tmp_path):
    model = tiny_model(tmp_path, "llama")
    job = job_for(tmp_path, model)
    Path(job.calibration.source).write_text(made_up_text(30))
    with pytest.raises(QuipError) as caught:
        make_plan(job)
    assert caught.value.code == "TUNING_SMALL"
    with pytest.raises(QuipError) as caught:
        make_plan(job_for(tmp_path, tiny_model(tmp_path, "bert")))
    assert caught.value.code == "BAD_SETTING"


def test_memory_that_is_too_small_is_named_with_what_would_fit(tmp_path, monkeypatch):
    job = job_for(tmp_path, tiny_model(tmp_path, "llama"))
    plan = make_plan(job)
    needed = cost.memory(plan)
    window = 24 * 32 * 4  # bytes of states
    monkeypatch.setattr(cost, "free_memory", lambda _: cost.MARGIN * (needed - 9.5 * window))
    with pytest.raises(QuipError) as caught:
        cost.check_memory(plan)
    assert caught.value.code == "TUNING_MEMORY" and "Use 30 samples" in caught.value.hint
    cost.check_memory(make_plan(replace(job, force=True)))


def test_settings_survive_json_and_wrong_ones_are_named():
    job = JobConfig("m", "o", tuning=TuningConfig(("pv", "end-to-end"), steps=5))
    assert job.tuning.stages == ("end-to-end", "pv")
    assert JobConfig.from_json(json.loads(json.dumps(job.to_json()))) == job
    for wrong in ({"stages": ("all",)}, {"steps": -1}, {"rate": 0}, {"relax_signs": "yes"}):
        with pytest.raises(QuipError) as caught:
            TuningConfig(**wrong)
        assert caught.value.code == "BAD_SETTING"
