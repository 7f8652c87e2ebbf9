"""The short forms of tests/soak that attack the running studio, on one server; the full forms are commands.

``canary`` and ``offline`` start programs of their own for half a minute each and are commands only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak"
sys.path.append(str(SOAK))

import door  # noqa: E402
import endpoints  # noqa: E402
import paths  # noqa: E402
from soak import Row, Server  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(environment={"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0"}) as server:
        yield server


def held(row: Row) -> None:
    assert row.held, (row.result, row.problems[:5])


def test_foreign_requests_and_strangers_are_turned_away(server: Server) -> None:
    listed = door.guarded()
    held(door.origins(server, listed, fast=True))
    held(door.strangers(server, listed))


def test_it_listens_here_only(server: Server) -> None:
    held(door.bound(server))


def test_only_what_is_approved_is_served(server: Server) -> None:
    held(door.snapshot(server, door.guarded()))


def test_long_and_broken_uploads_leave_nothing(server: Server) -> None:
    held(door.uploads(server))


def test_versions_are_above_the_floors() -> None:
    held(door.floors())


def test_nonsense_is_answered_in_words(server: Server) -> None:
    held(endpoints.nonsense(server, 1))


def test_no_path_leads_out(server: Server) -> None:
    held(paths.lead_out(server, fast=True))


@pytest.fixture
def chromium() -> None:
    pytest.importorskip("playwright.sync_api")
    import browser

    if not browser.CHROMIUM:
        pytest.skip("no Chromium: set QUIP_CHROMIUM, or install chromium")


@pytest.mark.usefixtures("chromium")
def test_foreign_pages_get_nothing_and_texts_stay_texts(server: Server) -> None:
    import browser_attacks

    for row in browser_attacks.attacks(server, fast=True):
        held(row)


@pytest.mark.usefixtures("chromium")
def test_a_run_outlives_server_and_pages(server: Server) -> None:
    import visitors

    for row in visitors.come_and_go(server, fast=True):
        held(row)
