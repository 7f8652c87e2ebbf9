"""What the guard turns away: foreign names, foreign pages, unknown routes, long bodies, and whoever has no key."""

import asyncio
from dataclasses import dataclass, field

import pytest
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from app.door import Door
from app.guard import BODY, Guard, is_served

PORT, KEY = 7860, Door(b"s" * 16, 7860).key
OURS = {"host": f"127.0.0.1:{PORT}", "cookie": f"quip-studio-{PORT}={KEY}"}
UPLOAD = "/gradio_api/upload"


@dataclass
class Page:
    """Stands for Gradio: notes what came through, and reads bodies."""

    seen: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        request = Request(scope, receive)
        self.seen.append(request.url.path)
        try:
            await request.body()
        except MultiPartException as error:
            self.broken.append(error.message)
        await PlainTextResponse("ok")(scope, receive, send)


def ask(headers, path="/", method="GET", parts=(b"",), *, page=None, hosts=()):
    """Status and headers of the answer; a body in parts."""
    sent = []
    messages = [{"type": "http.request", "body": p, "more_body": k + 1 < len(parts)} for k, p in enumerate(parts)]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "client": ("::1", 1)}
    asyncio.run(Guard(page or Page(), Door(b"s" * 16, PORT), hosts)(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_our_names_pass(host):
    status, headers = ask({**OURS, "host": host, "origin": f"http://{host}"})
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "", "169.254.1.1", "[", "a@evil.example"]
)
def test_foreign_hosts_do_not(host):
    assert ask({**OURS, "host": host})[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:18999", "http://127.0.0.1"])
def test_foreign_origins_do_not(origin):
    assert ask({**OURS, "origin": origin})[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_from_other_sites_only_links_to_the_page_pass(site):
    link = {**OURS, "sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ask(link)[0] == 200
    assert ask(link, "/config")[0] == 403
    assert ask(link, "/gradio_api/queue/join", "POST")[0] == 403
    assert ask({**link, "sec-fetch-dest": "iframe"})[0] == 403
    assert ask({**link, "sec-fetch-mode": "no-cors"})[0] == 403


def test_more_names_can_be_allowed():
    assert ask({**OURS, "host": "studio.lan:7860"}, hosts=("Studio.LAN",))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/openapi.json",
        "/docs",
        "/gradio_api/mcp/",
        "/gradio_api/vibe-edit",
        "/monitoring",
        "/gradio_api/stream/x",
        "/gradio_api/proxy=http://evil.example",
        "/gradio_api/run-history/records",
        "/gradio_api/queue/join",
        "//config",
    ],
)
def test_routes_that_nobody_needs_are_not_there(path):
    assert not is_served("GET", path)
    page = Page()
    assert ask(OURS, path, page=page)[0] == 404
    assert page.seen == []


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/file=/etc/passwd", "/assets/index.js", "/login"])
def test_nothing_passes_without_the_key(path):
    page = Page()
    assert ask({"host": OURS["host"]}, path, page=page)[0] in (303, 403)
    assert ask({**OURS, "cookie": f"quip-studio-{PORT}=guess"}, path, page=page)[0] in (303, 403)
    assert page.seen == []


@pytest.mark.parametrize("path", ["/cancel", "/reset", "/queue/join", "/upload", "/run/predict", "/call/start_run"])
def test_nothing_is_done_without_the_key(path):
    page = Page()
    assert ask({"host": OURS["host"]}, f"/gradio_api{path}", "POST", page=page)[0] == 403
    assert page.seen == []


def test_what_an_installed_page_is_made_of_needs_no_key():
    page = Page()
    for path in ("/manifest.json", "/pwa_icon", "/favicon.ico"):
        assert ask({"host": OURS["host"]}, path, page=page)[0] == 200


@pytest.mark.parametrize("length", [str(BODY + 1), "-1", "ten", "9" * 40])
def test_a_body_that_says_it_is_too_long_is_refused_at_once(length):
    page = Page()
    assert ask({**OURS, "content-length": length}, UPLOAD, "POST", page=page)[0] == 413
    assert page.seen == []


def test_a_body_that_does_not_say_so_is_counted():
    page, part = Page(), bytes(BODY // 4)
    assert ask(OURS, UPLOAD, "POST", [part] * 4, page=page)[0] == 200
    assert ask(OURS, UPLOAD, "POST", [part] * 5, page=page)[0] == 413
    assert page.broken == ["UPLOAD_LIMIT: The file is larger than 8 MB. Give its path instead."]
