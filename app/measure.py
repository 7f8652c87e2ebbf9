"""The form of the Evaluate tab: what can be measured against what, what it will cost, and the job it makes."""

from __future__ import annotations

import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from app import widgets as w
from app.fmt import plural, rough, size
from app.forms import whole
from app.library import Entry, Library, cached_models
from app.machine import memory
from app.state import explain
from app.studio import Studio
from app.views import checkpoint
from quip_engine.assessment import LAYER_WINDOWS
from quip_engine.calibration import evaluation_text
from quip_engine.checkpoint import read_manifest
from quip_engine.config import EvaluationConfig
from quip_engine.errors import QuipError, fail
from quip_engine.evaluate import text_file
from quip_engine.loading import checked_tokenizer
from quip_engine.probe.folder import local_folder
from quip_engine.probe.settings import read_config

BUNDLED, OWN = "bundled", "own"
ITSELF, NOTHING = "itself", ""  # against the original a model was made from; against nothing
LONGEST = 2048  # tokens of a window unless asked for, as in the papers
SHARE = 0.3  # of the speed of a matrix product that whole passes reach
FLOAT = 4  # bytes
SCAN = 30.0  # seconds between two looks at the models of this computer
START = 8.0  # seconds until the first window


class Desk:
    """What the tab answers to its fields."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def models(self) -> list[tuple[str, str]]:
        """(name, folder or hub id): finished runs, newest first, then what may be an original."""
        made = [
            (f"{run.name} · {run.id.replace('-', ' ')}", str(checkpoint(run)))
            for run in self.studio.follower.finished()
        ]
        return made + [(f"{e.name} · {e.origin}", e.model) for e in self._shelf()]

    def originals(self) -> list[tuple[str, str]]:
        """What a model may be compared with."""
        entries = [(f"{e.name} · {e.origin}", e.model) for e in self._shelf() if e.supported]
        return [("The original it was made from", ITSELF), ("Nothing", NOTHING), *entries]

    def _shelf(self) -> list[Entry]:
        return _entries(self.studio.library, int(time.time() // SCAN))

    def first_choice(self) -> str:
        return self.models()[0][1]

    def context(self, model: str | None) -> int:
        """Tokens of a window that suit a model; the usual where it is not there."""
        try:
            config = read_config(Path(self._folder(model or "")))
            return int(min(LONGEST, config.get("max_position_embeddings") or config.get("n_positions") or LONGEST))
        except (QuipError, OSError, TypeError, ValueError):
            return LONGEST

    def job(self, model: str, against: str, source: str, own: str, *rest: Any) -> EvaluationConfig:
        """The evaluation that the fields describe. Raises the coded errors of bad values."""
        seqlen, windows, layers, tasks, questions = rest
        model = (model or "").strip()
        if not model:
            fail("NO_MODEL")
        text = BUNDLED if source != OWN else str(text_file((own or "").strip() or "?").absolute())
        other = self.original_of(model) if against == ITSELF else (against or "").strip()
        count = whole(windows) or None  # an empty number field says 0
        return EvaluationConfig(
            model, other, text, whole(seqlen), count, bool(layers), tuple(tasks or ()), whole(questions)
        )

    def original_of(self, model: str) -> str:
        """The original of a model that was made here; empty where that is not known, or is gone."""
        folder = Path(self._folder(model)).resolve()
        for run in self.studio.follower.runs:
            if run.status == "done" and checkpoint(run).resolve() == folder:
                return run.job.model
        try:
            source = str(read_manifest(folder).get("model"))
        except QuipError:
            return NOTHING
        return next((e.model for e in self._shelf() if source in (e.name, e.model)), NOTHING)

    def price(self, *given: Any) -> w.Html:
        """What an evaluation will take, or what is wrong with the fields."""
        try:
            job = self.job(*given)
            tokens = self._tokens(job)
            count = min(tokens // job.seqlen, job.windows or 10**9)
            if count == 0:
                fail("EVAL_EMPTY", source=text_file(job.text).name, tokens=tokens, seqlen=job.seqlen)
            models = [job.model, *filter(None, [job.against])]
            weights = [self._weights(model) for model in models]
        except Exception as error:
            return w.problem(explain(error))
        passes = count * len(models) + (self._layer_passes(job, count) if job.against and job.layers else 0)
        seconds = self._seconds(passes * job.seqlen * 2 * max(weights))
        needed, ram = FLOAT * sum(weights), memory(job.device)
        words = [
            f"About {rough(seconds)}: {plural(count, 'window')} of {job.seqlen} tokens",
            "through both models" if job.against else "through one model, compared with nothing",
            f"The weights take {size(needed)} of the {size(ram.free)} that are free",
        ]
        return w.note(f"{words[0]} {words[1]}. {words[2]}.")

    def _layer_passes(self, job: EvaluationConfig, count: int) -> int:
        """Passes with one layer alone: as many as scoring takes, or once or a few times through all layers."""
        layers = self._layers(job.model)
        return layers * min(max(1, 2 * count // layers), LAYER_WINDOWS, count) if layers else 0

    def _folder(self, model: str) -> str:
        """The folder of a model that is here. Raises ``NOT_FOUND`` for a hub id that is not in the cache."""
        folder = local_folder(model) or next((path for name, path in cached_models() if name == model.strip()), None)
        if folder is None:
            fail("NOT_FOUND", path=model.strip())
        return str(folder)

    def _tokens(self, job: EvaluationConfig) -> int:
        """Tokens of the text with the tokenizer of the model."""
        path = text_file(job.text)
        return _counted(self._folder(job.model), str(path), path.stat().st_mtime)

    def _layers(self, model: str) -> int:
        """Quantized layers of a model; 0 where that is not written down."""
        try:
            return len(read_manifest(Path(self._folder(model)))["layers"])
        except QuipError:
            return 0

    def _weights(self, model: str) -> int:
        """About how many weights a model has, from what its folder says."""
        folder = Path(self._folder(model))
        config = read_config(folder)
        try:
            layers = sum(math.prod(layer["shape"]) for layer in read_manifest(folder)["layers"])
        except QuipError:
            stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), torch.float32)
            return sum(file.stat().st_size for file in folder.glob("*.safetensors")) // stored.itemsize
        return int(layers + config.get("vocab_size", 0) * config.get("hidden_size", 0))

    def _seconds(self, flops: float) -> float:
        """From what the last evaluation took on this computer, else from a matrix product timed now."""
        for row in self.studio.evaluations.finished():
            try:
                weights = self._weights(row.job.model)
            except QuipError:  # its folder is gone
                continue
            assert row.result is not None
            done = 2 * weights * row.job.seqlen * (2 if row.job.against else 1)
            return START + flops * row.result["passes_seconds"] / done
        return START + flops / (SHARE * _rate())


@lru_cache(maxsize=2)
def _entries(library: Library, _when: int) -> list[Entry]:
    """Models on this computer, scanned anew now and then."""
    return library.entries()


@lru_cache(maxsize=32)
def _counted(folder: str, text: str, _when: float) -> int:
    return len(checked_tokenizer(folder)[1](evaluation_text(text), verbose=False)["input_ids"])


@lru_cache(maxsize=1)
def _rate() -> float:
    """Multiplications and additions a second of a matrix product in float32, here."""
    A = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    for _ in range(5):
        A @ A
    return 5 * 2 * 512**3 / (time.perf_counter() - started)
