"""What all pages of one server share: the data directory, the follower, checked models, loaded models."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from app import forms
from app.bench import Bench
from app.downloads import Downloads
from app.evaluations import Evaluations
from app.expectations import Expectations
from app.library import DEMO, Library
from app.settings import Settings, SettingsFile
from app.state import Follower
from app.suggestions import Suggestions
from quip_engine import runs
from quip_engine.config import BudgetConfig, CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.plan import make_plan
from quip_engine.probe import ModelFacts, probe
from quip_engine.runs import Run


@dataclass
class Studio:
    home: Path
    never_online: bool = False  # from the command line: no setting may lift it
    address: str = ""  # that the page is served at
    settings: Settings = field(init=False)
    follower: Follower = field(init=False)
    evaluations: Evaluations = field(init=False)
    expectations: Expectations = field(init=False)
    library: Library = field(init=False)
    downloads: Downloads = field(init=False)
    suggestions: Suggestions = field(init=False)
    bench: Bench = field(init=False)
    _facts: dict[tuple[str, float], ModelFacts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.settings = SettingsFile(self.home).load()
        self._follow_settings()
        self.follower = Follower(self.home)
        self.evaluations = Evaluations(self.home)
        self.expectations = Expectations(self.home)
        self.library = Library(self.home)
        self.downloads = Downloads(self.home, self.library.forget)
        self.suggestions = Suggestions()
        self.bench = Bench(lambda: self.settings.device)

    @property
    def offline(self) -> bool:
        return self.never_online or self.settings.offline

    def set(self, settings: Settings) -> None:
        """Keep and follow new settings."""
        SettingsFile(self.home).save(settings)
        self.settings = settings
        self._follow_settings()

    def _follow_settings(self) -> None:
        replace(self.settings, offline=self.offline).apply()

    def facts(self, model: str) -> ModelFacts:
        """Facts of a model, checked once for each state of its config.json. Raises the coded errors of ``probe``."""
        config = Path(model.strip()).expanduser() / "config.json"
        key = (model.strip(), config.stat().st_mtime if model.strip() and config.is_file() else 0.0)
        with self._lock:
            if key[1] and key in self._facts:
                return self._facts[key]
        facts = probe(model, offline=self.offline)
        with self._lock:
            self._facts[key] = facts
        return facts

    def checked(self) -> list[str]:
        """Models that were found to be fine, as ``facts`` was asked for them."""
        with self._lock:
            return [model for model, _ in self._facts]

    def folder_for(self, model: str, recipe: RecipeConfig, budget: BudgetConfig = forms.NO_BUDGET) -> Path:
        """A folder that does not exist yet, named after model and recipe."""
        name = re.sub(r"[^a-z0-9.]+", "-", Path(model).name.lower()).strip("-.")
        stem = f"{name[:60]}-{forms.stem(recipe, budget)[:40]}".strip("-.")  # both may be any text
        taken = {Path(run.job.out).name for run in self.follower.runs}
        names = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 10_000))
        models = self.home / "models"
        return next(models / n for n in names if n not in taken and not (models / n).exists())

    def demo_job(self) -> JobConfig:
        recipe = RecipeConfig("quip#", 2)
        return JobConfig(str(DEMO), str(self.folder_for(str(DEMO), recipe)), recipe, CalibrationConfig())

    def start(self, job: JobConfig) -> None:
        """Check everything the worker would check, then start it. Raises the coded errors."""
        make_plan(job)
        runs.start(job, self.home)
        self.follower.refresh()

    def pause(self) -> None:
        """Ask the run at work to end after its layer."""
        if run := runs.active(self.home):
            runs.pause(run.id, self.home)
        self.follower.refresh()

    def stop(self) -> None:
        """End the run at work now."""
        if run := runs.active(self.home):
            runs.stop(run.id, self.home)
        self.follower.refresh()

    def enqueue(self, job: JobConfig) -> Run:
        """The same for a job that waits for its turn, if need be."""
        make_plan(job)
        run = runs.enqueue(job, self.home)
        self.follower.refresh()
        return run

    def resume(self, run_id: str) -> None:
        """Let a run go on."""
        runs.resume(run_id, self.home)
        self.follower.refresh()
