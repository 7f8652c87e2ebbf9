"""Zero-shot tasks through lm_eval, an extra that is looked for only when asked: ``pip install lm_eval``.

The loaded model is handed to it as it is; accuracies come with the standard errors that lm_eval states.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quip_engine.errors import fail

TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "piqa", "winogrande", "lambada_openai")
METRICS = ("acc_norm", "acc")  # the one that is stated, first found


def available() -> bool:
    """Whether lm_eval can be imported. Does not import it."""
    return "lm_eval" in sys.modules or importlib.util.find_spec("lm_eval") is not None


def run_task(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, questions: int
) -> tuple[str, float, float | None]:
    """(metric, value, standard error) of one task on its first ``questions`` questions. Raises ``TASK_FAILED``."""
    if not available():
        fail("TASK_FAILED", task=task, reason="lm_eval is not installed")
    import lm_eval  # type: ignore[import-not-found]  # noqa: PLC0415 - an extra, and slow
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]  # noqa: PLC0415

    try:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
        found = lm_eval.simple_evaluate(model=wrapped, tasks=[task], num_fewshot=0, limit=questions)
        return _headline(found["results"][task])
    except Exception as error:  # its tasks fetch data and run code of their own: anything may come
        fail("TASK_FAILED", task=task, reason=f"{type(error).__name__}: {error}".partition("\n")[0][:200])


def _headline(results: dict[str, Any]) -> tuple[str, float, float | None]:
    """The metric people quote. lm_eval names them ``acc,none`` and ``acc_stderr,none``."""
    named = {key.partition(",")[0]: value for key, value in results.items()}
    metric = next(name for name in METRICS if name in named)
    error = named.get(f"{metric}_stderr")
    return metric, float(named[metric]), float(error) if isinstance(error, int | float) else None
