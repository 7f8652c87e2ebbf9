"""The guard of the server: who may talk to it, about what, how long, and what its pages may do.

A browser sends the name it was given in ``Host`` and the page it stands on in ``Origin`` and ``Sec-Fetch-Site``. A page
of another site that points its own name at this machine (DNS rebinding) has the wrong Host; one that posts across
sites, or from another port of this machine, has the wrong Origin. Both are turned away before Gradio sees them, as is
everything that ``ROUTES`` does not list and everybody whom the door (``door.py``) does not know. Bodies are counted as
they arrive. The headers keep the page from loading anything from elsewhere.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.door import Door
from quip_engine.errors import CATALOGUE

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # without one a form says that it comes from nowhere (Origin: null)
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
BODY = 8 << 20  # bytes of a request
TOO_LONG = " ".join(["UPLOAD_LIMIT:", *CATALOGUE["UPLOAD_LIMIT"]]).format(limit=f"{BODY >> 20} MB")
PUBLIC = ("/manifest.json", "/pwa_icon", "/favicon.ico")  # browsers ask for these without cookies; nothing is in them
GRADIO = "/gradio_api"
# What page and programs use of the several dozen routes of Gradio; an entry ending in / or = stands for what follows it
READ = (
    *("/", "/login", "/config", "/config/", "/theme.css", "/assets/", "/static/", *PUBLIC),
    *(f"{GRADIO}/{name}" for name in ("info", "app_id", "startup-events", "queue/data", "heartbeat/", "file=")),
    *(f"{GRADIO}/{name}" for name in ("upload_progress", "call/")),
)
WRITE = (
    "/login",
    *(f"{GRADIO}/{name}" for name in ("queue/join", "run/", "call/", "upload", "cancel", "reset", "component_server/")),
)
ROUTES = {"GET": READ, "HEAD": READ, "POST": WRITE}


def own_names() -> set[str]:
    """Names and addresses under which other machines may know this one (for ``--listen``)."""
    addresses = {a.address.split("%")[0] for group in psutil.net_if_addrs().values() for a in group}
    return {socket.gethostname().lower(), socket.getfqdn().lower(), *addresses}


def host_name(authority: str) -> str:
    """The name in ``name:port`` or ``[address]:port``, lower case; empty where it cannot be read."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def is_served(method: str, path: str) -> bool:
    """The method and path are among ``ROUTES``."""
    known = ROUTES.get(method, ())
    return path in known or any(path.startswith(k) for k in known if len(k) > 1 and k[-1] in "/=")


class Guard:
    """ASGI middleware: Host, Origin, route, body and key must be right; answers carry security headers."""

    def __init__(self, app: ASGIApp, door: Door, hosts: Iterable[str] = ()) -> None:
        self.app, self.door, self.hosts = app, door, {*LOOPBACK, *(h.lower() for h in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        body = Body(receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        request = Request(scope, body.receive)
        refusal = self.refuses(request) or await self._at_the_door(request)
        if refusal:
            return await refusal(scope, receive, answer)
        try:
            await self.app(scope, body.receive, body.replacing(answer))
        except (MultiPartException, ClientDisconnect):
            await body.refuse(answer)

    def refuses(self, request: Request) -> Response | None:
        """The answer to a request that must not pass, whoever asks."""
        headers = request.headers
        host, origin = headers.get("host", ""), headers.get("origin")
        if host_name(host) not in self.hosts:
            return _text(421, "This address is not served here. Open the address that QuIP Studio printed.")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _text(403, "Requests from other sites are refused.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_visit(request):
            return _text(403, "Requests from other sites are refused.")
        if not is_served(request.method, request.scope["path"]):
            return _text(404, "There is nothing here.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY:
            return _text(413, TOO_LONG)
        return None

    async def _at_the_door(self, request: Request) -> Response | None:
        if request.scope["path"].startswith(PUBLIC):
            return None
        try:
            return await self.door.answer(request)
        except MultiPartException as broken:
            return _text(413, broken.message)


class Body:
    """The body of a request, counted as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._length, self._answered = receive, 0, False

    @property
    def too_long(self) -> bool:
        return self._length > BODY

    async def receive(self) -> Message:
        """The next part. What is too long raises what Gradio's upload knows."""
        message = await self._receive()
        self._length += len(message.get("body", b""))
        if self.too_long:
            raise MultiPartException(TOO_LONG)
        return message

    def replacing(self, send: Send) -> Send:
        """Sends 413 in place of whatever was made of a body that was too long."""

        async def replaced(message: Message) -> None:
            await (self.refuse(send) if self.too_long else send(message))

        return replaced

    async def refuse(self, send: Send) -> None:
        """413, once, to a body that was too long; nobody listens where it broke off."""
        if self.too_long and not self._answered:
            self._answered = True
            await _text(413, TOO_LONG)({"type": "http"}, self._receive, send)


def _is_visit(request: Request) -> bool:
    """Somebody follows a link to the page: nothing happens but that it opens."""
    shape = request.headers.get("sec-fetch-mode"), request.headers.get("sec-fetch-dest", "document")
    return request.method == "GET" and request.scope["path"] == "/" and shape == ("navigate", "document")


def _text(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)
