"""The studio for programs: named and typed endpoints for ``gradio_client``. Everything else of the page is private.

    from gradio_client import Client
    key = "..."  # what follows ?token= in the address that the terminal printed
    studio = Client("http://127.0.0.1:7860", headers={"authorization": f"Bearer {key}"})
    studio.predict(api_name="/list_models")
    run = studio.predict("/models/tiny", "waterfill", 2.0, api_name="/start_run")
    studio.predict(run["id"], api_name="/run_status")

Where ``--password-file`` was given, ``Client(address, auth=("studio", password))`` comes in, too. Values are checked
as those of a form are. What cannot be done comes back as an error whose text begins with its code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import gradio as gr

from app.calls import worded
from app.state import explain
from app.studio import Studio
from quip_engine import runs
from quip_engine.config import CalibrationConfig, EvaluationConfig, GenerationSettings, JobConfig, RecipeConfig
from quip_engine.errors import fail
from quip_engine.generate import Answer, stream
from quip_engine.inference import prepare
from quip_engine.loading import checked_folder
from quip_engine.prompts import prepare_prompt
from quip_engine.runs import Run, evaluations

LONGEST_PROMPT = 100_000  # characters


def add(studio: Studio) -> None:
    """Add the endpoints to the page that is being built."""
    surface = Surface(studio)
    for endpoint in (
        *(surface.list_models, surface.start_run, surface.run_status, surface.pause_run, surface.resume_run),
        *(surface.evaluate, surface.evaluation_status, surface.generate),
    ):
        gr.api(_named_errors(endpoint), api_name=endpoint.__name__, concurrency_limit=1)


def _named_errors(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    hints = get_type_hints(endpoint)

    @wraps(endpoint)
    def answer(*given: Any, **named: Any) -> Any:
        try:
            for name, value in signature(endpoint).bind(*given, **named).arguments.items():
                _check_kind(name, value, hints[name])
            return endpoint(*given, **named)
        except Exception as error:
            told = explain(error)
            raise gr.Error(worded(told), print_exception=told.code == "DEFECT") from error

    return answer


def _check_kind(name: str, value: Any, kind: Any) -> None:
    allowed = int | float if kind in (int, float) else kind
    if isinstance(value, bool) or not isinstance(value, allowed):
        words = {str: "a text", int: "a number", float: "a number"}.get(kind, "an object of named values")
        fail("BAD_SETTING", field=name, value=repr(value)[:80], allowed=words)


class Surface:
    """What a program may ask of the studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def list_models(self) -> list[dict[str, Any]]:
        """The models on this computer, and those that runs have made: name, what to ask for it by, origin."""
        found = [asdict(entry) for entry in self._studio.library.entries()]
        done = self._studio.follower.finished()
        return found + [{"model": r.job.out, "name": r.name, "origin": r.id, "supported": False} for r in done]

    def start_run(  # noqa: PLR0917 - callers name what they give
        self,
        model: str,
        method: str = "quip#",
        bits: float = 2.0,
        out: str = "",
        calibration: str = "bundled",
        samples: int = 128,
        seqlen: int = 256,
        seed: int = 0,
        options: dict | None = None,
    ) -> dict[str, Any]:
        """Quantize a model. Without ``out``, a new folder in the data directory is made. Tells how the run stands."""
        recipe = RecipeConfig(method, bits, options=options or {})
        folder = Path(out).expanduser().absolute() if out.strip() else self._studio.folder_for(model, recipe)
        text = CalibrationConfig(calibration, samples, seqlen)
        job = JobConfig(model, str(folder), recipe, text, seed, threads=self._studio.settings.threads)
        self._studio.start(job)
        return _told(runs.Store(self._studio.home).list()[0])

    def run_status(self, run_id: str) -> dict[str, Any]:
        """How a run stands: its status, finished layers of all, mean loss, bits, what went wrong."""
        self._studio.follower.refresh()
        told = _told(self._studio.follower.find(run_id))
        view, _ = self._studio.follower.chosen(run_id)
        if view is None:
            return told
        seen = {"phase": view.phase, "layers": len(view.layers), "of": view.total, "mean_rel_proxy": view.mean_loss}
        return {**told, **seen, "bits_per_weight": view.bits_per_weight}

    def pause_run(self, run_id: str) -> dict[str, Any]:
        """Stop a run after its current layer; ``resume_run`` goes on."""
        runs.pause(run_id, self._studio.home)
        return self.run_status(run_id)

    def resume_run(self, run_id: str) -> dict[str, Any]:
        """Let a run go on after its last saved block."""
        self._studio.resume(run_id)
        return self.run_status(run_id)

    def evaluate(
        self, model: str, against: str = "", text: str = "bundled", seqlen: int = 256, windows: int = 0
    ) -> dict[str, Any]:
        """Measure a model, beside its original if that is given. 0 windows: all of the text. Tells how it stands."""
        job = EvaluationConfig(model, against, text, seqlen, windows or None, layers=False)
        return self.evaluation_status(evaluations.start(job, self._studio.home).id)

    def evaluation_status(self, evaluation_id: str) -> dict[str, Any]:
        """How an evaluation stands, with its figures once it is done."""
        row = evaluations.get(evaluation_id, self._studio.home)
        return {"id": row.id, "status": row.status, "result": row.result, "error": row.error}

    def generate(  # noqa: PLR0917
        self,
        model: str,
        prompt: str,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Continue a prompt, or answer it where the model has a chat template."""
        settings = GenerationSettings(max_tokens, temperature, top_p, top_k, seed)
        if len(prompt) > LONGEST_PROMPT:
            fail("BAD_SETTING", field="prompt", value=f"{len(prompt)} characters", allowed=f"up to {LONGEST_PROMPT}")
        loaded = self._studio.bench.get(checked_folder(model))
        runs_on = str(prepare(loaded.model))
        asked = prepare_prompt(loaded.model, loaded.tokenizer, prompt, max_tokens)
        answer = Answer.of(stream(loaded.model, loaded.tokenizer, asked, settings))
        figures = {"tokens": len(answer.tokens), "tokens_per_second": answer.tokens_per_second, "runs_on": runs_on}
        return {"text": answer.text, "end": answer.end, **figures}


def _told(run: Run) -> dict[str, Any]:
    names = {"id": run.id, "name": run.name, "status": run.status, "model": run.job.model, "out": run.job.out}
    return {**names, "result": run.result, "error": run.error}
