"""What a person may give to command line and page: names, model folders, jobs, prompts, models of the hub.

Each way is given to both. Workers do their work in this process, so that a case takes a second.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from breaking import Break
from by_hand import Page, Said, command, heard, texts
from fake_hub import FakeHub, fake_hub
from helpers import made_up_text, tiny_model
from huggingface_hub import constants, hf_api

from app import journal, library_views, views
from app.page import Choices
from app.room import Room
from app.state import read_view
from quip_engine import transfer
from quip_engine.runs import Run, Store, client, worker

STOPPED = 75  # exit status


@dataclass
class World:
    """What all cases share: good models, a data directory, a page. Each case gets a folder of its own."""

    folder: Path
    models: Path
    home: Path
    page: Page
    text: Path = field(init=False)
    afterwards: list[Callable[[], object]] = field(default_factory=list)  # what a case has to clear up

    def __post_init__(self) -> None:
        self.text = self.folder / "text.txt"
        self.text.write_text(made_up_text(1500))

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def last_run(self) -> str:
        """What the Monitor says of it."""
        view = read_view(Store(self.home).list()[0])
        lines = (line for _, event in view.log for _, line in journal.words(event, view))
        return " ".join(texts([str(views.trouble(view) or ""), *lines]))

    def model(self, damage: Break | None = None, kind: str = "llama") -> Path:
        """A copy of a good model, damaged."""
        found = self.folder / "model"
        if not found.exists():
            shutil.copytree(self.models / kind, found)
            if damage:
                damage(found)
        return found


def good_models(folder: Path) -> Path:
    """The models that cases damage copies of."""
    wide = {"intermediate_size": 4099, "num_hidden_layers": 1}  # a prime
    for kind, settings in {"llama": {}, "shards": {"shard_size": "40KB"}, "tied": {}, "wide": wide}.items():
        family = "qwen2" if kind == "tied" else "llama"
        tiny_model(folder / kind, family, **settings).rename(folder / "made")
        (folder / kind).rmdir()
        (folder / "made").rename(folder / kind)
    return folder


@dataclass(frozen=True)
class Typed:
    """A model that is typed and checked: a name, or a folder."""

    name: str | Callable[[World], str] = ""
    damage: Break | None = None
    kind: str = "llama"
    flags: tuple[str, ...] = ()

    def text(self, world: World) -> str:
        if self.damage:
            return str(world.model(self.damage, self.kind))
        return self.name if isinstance(self.name, str) else self.name(world)

    def cli(self, world: World) -> Said:
        return heard("inspect", self.text(world), *self.flags)

    def shown(self, world: World) -> str:
        return world.page.press("check", **{"other-model": self.text(world)})


@dataclass(frozen=True)
class Job:
    """A run of a few layers, with settings and a model that may be wrong. ``flags`` are of the command line."""

    damage: Break | None = None
    kind: str = "llama"
    flags: dict[str, Any] = field(default_factory=dict)
    text: Callable[[World], Path] = lambda world: world.text  # the calibration file
    out: Callable[[World], Path] | None = None

    def arguments(self, world: World) -> list[str]:
        """Of the command line."""
        settings = self._settings(world)
        return ["quantize", settings.pop("model"), *(word for pair in settings.items() for word in pair)]

    def _settings(self, world: World) -> dict[str, str]:
        text = self.text(world)
        model = world.model(self.damage, self.kind)
        out = self.out(world) if self.out else world.out
        usual = {"--out": out, "--calibration": text, "--samples": 8, "--seqlen": 32, "--threads": 1}
        return {"model": str(model), **{k: str(v) for k, v in {**usual, **self.flags}.items()}}

    def cli(self, world: World) -> Said:
        return heard(*self.arguments(world))

    def shown(self, world: World) -> str:
        s = self._settings(world)
        fields: dict[str, Any] = {"State": s["model"], "out": s["--out"], "Text": "own", "own-text": s["--calibration"]}
        fields |= {"samples": number(s["--samples"]), "seqlen": number(s["--seqlen"])}
        fields |= {"Seed": number(s.get("--seed", "0")), "Device": s.get("--device", "cpu")}
        told, runs = world.page.press("start", **fields), Store(world.home).list()
        return told + (world.last_run() if runs and runs[0].job.out == s["--out"] else "")


def number(text: str) -> Any:
    """As a number field gives it: what is none stays as it is."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Way:
    """Anything else a person does."""

    cli: Callable[[World], Said]
    shown: Callable[[World], str]


@dataclass(frozen=True)
class Resumed(Job):
    """A run that was paused before its first layer, and goes on after ``meanwhile``."""

    meanwhile: Callable[[World, Run], object] = lambda *_: None

    def _pause(self, world: World) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "spawn", _paused)
            assert command(*self.arguments(world))[0] == STOPPED
        self.meanwhile(world, Store(world.home).list()[0])

    def cli(self, world: World) -> Said:
        self._pause(world)
        return heard(*self.arguments(world), "--resume")

    def shown(self, world: World) -> str:
        self._pause(world)
        world.page.studio.follower.refresh()
        return world.page.press("run-resume", State=Choices()) + world.last_run()


def _paused(module: str, home: Path, run_id: str, directory: Path) -> None:
    (directory / "STOP").touch()
    worker.main(home, run_id)


@dataclass(frozen=True)
class Chat:
    """A prompt to a model."""

    prompt: str
    damage: Break | None = None

    def cli(self, world: World) -> Said:
        return heard("generate", str(world.model(self.damage)), "--prompt", self.prompt, "--tokens", "4")

    def shown(self, world: World) -> str:
        model = str(world.model(self.damage))
        room = {"State": Room(), "prompt": self.prompt, "model-left": model, "model-right": model, "model-third": None}
        return world.page.press("send", **room, **{"talk-max_tokens": 4})


@dataclass(frozen=True)
class Fetched:
    """A model of the hub, fetched. ``prepare`` is told the hub that there is meanwhile."""

    name: str
    prepare: Callable[[FakeHub], object] = lambda _: None
    flags: tuple[str, ...] = ()

    def cli(self, world: World) -> Said:
        with hub_here(world, self.prepare):
            return heard("inspect", self.name, *self.flags)

    def shown(self, world: World) -> str:
        studio = world.page.studio
        with hub_here(world, self.prepare), pytest.MonkeyPatch.context() as patch:
            patch.setattr(studio, "never_online", "--offline" in self.flags)
            told = world.page.press("check", **{"other-model": self.name})
            if "can be quantized" in told:
                world.page.press("get", State=self.name)
                while studio.downloads.alive(self.name):
                    time.sleep(0.02)
                told += " ".join(texts(library_views.downloads(studio.downloads.all())))
                studio.downloads.remove(self.name)
        return told


@contextlib.contextmanager
def hub_here(world: World, prepare: Callable[[FakeHub], object]) -> Iterator[None]:
    """A hub that has one good model, owner/tiny, and an empty cache."""
    cache = world.folder / "cache"
    with fake_hub() as hub, pytest.MonkeyPatch.context() as patch:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        settings = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
        for name, value in {**settings, "HF_HUB_CACHE": str(cache)}.items():
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", hub.url)
        patch.setattr(transfer, "PAUSE", 0.01)
        hub.models["owner/tiny"] = world.models / "llama"
        prepare(hub)
        yield
    shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def workers_here() -> Iterator[None]:
    """Workers do their work in this process, and start no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_on_signals", "_end_if_unheard", "advance"):
            patch.setattr(worker, name, lambda *_: None)
        patch.setattr(client, "spawn", lambda _module, home, run_id, _directory: worker.main(home, run_id))
        yield
