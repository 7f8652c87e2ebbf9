"""The page begins with our script and says what is at work, with its length told right; other pages pass."""

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.first_word import SCRIPT, FirstWord

PAGE = "<!doctype html><html><head><title>x</title></head><body class=a><p>y</p></body></html>"


async def page(_request):
    return HTMLResponse(PAGE)


async def streamed(_request):
    return StreamingResponse(iter([PAGE[:20], PAGE[20:]]), media_type="text/html")


@pytest.mark.parametrize("answer", [page, streamed])
def test_the_page_begins_with_the_script(answer):
    words = iter(["<b>one</b>", "two"])
    client = TestClient(FirstWord(Starlette(routes=[Route("/", answer)]), lambda: next(words)))
    found = client.get("/")
    assert found.text.startswith(PAGE[:27] + SCRIPT.decode())
    assert found.text.endswith("<p>y</p></body></html>")
    assert "<body class=a><style>" in found.text and '<div id="first-word"><b>one</b></div>' in found.text
    assert '<div id="first-word">two</div>' in client.get("/").text
    assert int(found.headers.get("content-length", len(found.content))) == len(found.content)


def test_other_pages_pass_as_they_are():
    found = TestClient(FirstWord(Starlette(routes=[Route("/other", page)]), str)).get("/other")
    assert found.text == PAGE
