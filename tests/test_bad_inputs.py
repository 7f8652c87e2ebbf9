"""The 72 bad inputs, each from command line and page: a code, a sentence, a next step, and nothing left behind.

What is no reason to stop is a notice, whose sentence is said by both. ``only`` says why a case has no meaning in one of
the two; ``differs`` why ours is another answer than the list of them has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_cases import CASES, NO_CLI, NO_PAGE
from bad_inputs import Typed, World, good_models, workers_here
from breaking import both
from by_hand import Page, Said
from helpers import processor_time, share_kernels

from quip_engine.errors import CATALOGUE

SECONDS = 2.0  # of processor time for the check of a folder
# What the data directory may hold afterwards.
OWNED = (
    "app.json",
    "downloads.json",
    "draft.json",
    "evaluations",
    "expectations",
    "history.",
    "kernels",
    "models",
    "runs",
    "start.lock",
    "uploads",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Page]]:
    """Models to damage, a data directory, and the page over it."""
    models, home = tmp_path_factory.mktemp("models"), share_kernels(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch, workers_here():
        patch.setenv("QUIP_STUDIO_HOME", str(home))
        page = Page(home)
        world, good = World(tmp_path_factory.mktemp("warm"), good_models(models), home, page), Typed(damage=both())
        good.cli(world)  # imports
        good.shown(world)
        yield models, home, page


@pytest.fixture
def world(tmp_path: Path, shared: tuple[Path, Path, Page]) -> Iterator[World]:
    found = World(tmp_path, *shared)
    yield found
    for clear in found.afterwards:
        clear()


@pytest.mark.parametrize("number", CASES)
def test_a_bad_input(number: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[number]
    case.meanwhile(world, monkeypatch)
    started = processor_time()
    said = case.given.cli(world) if case.only != NO_CLI else Said("", "", "")
    between = processor_time()
    shown = " ".join(case.given.shown(world).split()) if case.only != NO_PAGE else ""
    if isinstance(case.given, Typed):
        assert max(between - started, processor_time() - between) < SECONDS
    assert said.code == case.code and (not said.code or said.code in CATALOGUE), said
    assert case.sentence in said.text
    if case.only != NO_PAGE:
        for expected in (case.on_page or case.sentence, said.code, said.hint):
            assert expected in shown, shown
    if said.code:
        assert not world.out.exists() or number == 54
    assert not [path for path in world.home.iterdir() if not path.name.startswith(OWNED)]


def test_every_one_of_the_list_is_here() -> None:
    assert list(CASES) == list(range(1, 73))
