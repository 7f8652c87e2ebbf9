"""Zero-shot tasks: lm_eval is an extra, so a stand-in speaks its part."""

import sys
from types import ModuleType

import pytest
from helpers import tiny_model

from quip_engine import tasks
from quip_engine.assessment import evaluate_model
from quip_engine.config import EvaluationConfig
from quip_engine.errors import QuipError
from quip_engine.events import EvaluationFinished, TaskScored, Warned

RESULTS = {
    "piqa": {"acc,none": 0.5, "acc_stderr,none": 0.05, "acc_norm,none": 0.625, "acc_norm_stderr,none": 0.04},
    "boolq": {"alias": "boolq", "acc,none": 0.75, "acc_stderr,none": "N/A"},
}


@pytest.fixture
def lm_eval(monkeypatch):
    """Records how it was called; knows two tasks."""
    package, models, huggingface = (ModuleType(f"lm_eval{rest}") for rest in ("", ".models", ".models.huggingface"))
    package.calls = []

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            self.pretrained, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size

    def simple_evaluate(model, tasks, num_fewshot, limit):
        package.calls.append((model, tasks, num_fewshot, limit))
        return {"results": {task: RESULTS[task] for task in tasks}}

    package.simple_evaluate, huggingface.HFLM = simple_evaluate, HFLM
    for module in (package, models, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


def test_the_loaded_model_is_handed_over(lm_eval):
    assert tasks.available()
    assert tasks.run_task("model", "tokenizer", "piqa", 20) == ("acc_norm", 0.625, 0.04)
    assert tasks.run_task("model", "tokenizer", "boolq", 20) == ("acc", 0.75, None)
    model, names, shots, limit = lm_eval.calls[0]
    assert (model.pretrained, model.tokenizer, names, shots, limit) == ("model", "tokenizer", ["piqa"], 0, 20)


def test_a_task_that_fails_is_named(lm_eval):
    with pytest.raises(QuipError, match=r"winogrande .* KeyError") as caught:
        tasks.run_task("model", "tokenizer", "winogrande", 5)
    assert caught.value.code == "TASK_FAILED"


@pytest.mark.skipif(tasks.available(), reason="lm_eval is installed")
def test_without_the_extra_it_says_so():
    with pytest.raises(QuipError, match="lm_eval is not installed"):
        tasks.run_task("model", "tokenizer", "piqa", 5)


def test_tasks_of_an_evaluation(lm_eval, tmp_path):
    """Both models are asked; a task that fails is a note, and what was measured is kept."""
    folder = str(tiny_model(tmp_path))
    job = EvaluationConfig(
        folder, folder, seqlen=32, windows=1, tasks=("winogrande", "piqa"), questions=7, device="cpu"
    )
    found = list(evaluate_model(job))
    (scored,) = (event for event in found if isinstance(event, TaskScored))
    assert scored == TaskScored("piqa", "acc_norm", 0.625, 0.04, 0.625, 7)
    assert [event.code for event in found if isinstance(event, Warned)] == ["TASK_FAILED"]
    finished = found[-1]
    assert isinstance(finished, EvaluationFinished)
    assert finished.tasks[0]["task"] == "piqa"
    assert "winogrande" in finished.notes[0]
    asked = [call[0].pretrained for call in lm_eval.calls]
    assert len({id(model) for model in asked}) == 2
