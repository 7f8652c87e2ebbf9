"""The page begins with our script, with its length told right; everything else passes as it is."""

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.first_word import SCRIPT, FirstWord

PAGE = "<!doctype html><html><head><title>x</title></head></html>"


async def page(_request):
    return HTMLResponse(PAGE)


async def streamed(_request):
    return StreamingResponse(iter([PAGE[:20], PAGE[20:]]), media_type="text/html")


@pytest.mark.parametrize("answer", [page, streamed])
def test_the_page_begins_with_the_script(answer):
    found = TestClient(FirstWord(Starlette(routes=[Route("/", answer)]))).get("/")
    assert found.content == PAGE.encode().replace(b"<head>", b"<head>" + SCRIPT)
    assert int(found.headers.get("content-length", len(found.content))) == len(found.content)


def test_other_pages_pass_as_they_are():
    found = TestClient(FirstWord(Starlette(routes=[Route("/other", page)]))).get("/other")
    assert found.text == PAGE
