"""What opens the studio: the address that its terminal printed, or a password; from then on, a cookie.

    secret   128 random bits in the data directory, readable by its owner only; outlives the server, so that open
             pages go on after a restart
    key      HMAC-SHA256(secret, password): another password ends every session of the old one
    GET  /?token=KEY        -> cookie, and the address without the key
    POST /login password=.. -> the same, where ``--password-file`` was given; at most ``TRIES`` wrong ones a minute
    Authorization: Bearer KEY   for programs, in place of the cookie

The cookie is HttpOnly and SameSite=Strict. Browsers keep cookies for a host, whatever the port, so its name holds the
port. A browser that is started from here gets a ``ticket``, good for one visit: the arguments of a process can be read
by every user of the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import os
import secrets
import time
from collections import deque
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

TRIES, TRIES_OF_ONE, MINUTE = 10, 5, 60.0  # wrong passwords, from everywhere and from one address
TICKET_SECONDS = 120.0
YEAR = 365 * 24 * 3600
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>QuIP Studio</title>
<meta name="viewport" content="width=device-width">{refresh}<style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem }}
h1 {{ font-size: 1.25rem }} input, button {{ font: inherit; padding: .4em .7em }}</style>
<main><h1>QuIP Studio</h1><p>{text}</p>{form}</main></html>"""
HOW = (
    "Open the address that the terminal printed when the studio was started: it ends with ?token= and a key. "
    "Once is enough, this browser is then known."
)
ASK = "This studio asks for its password. Once is enough, this browser is then known."
FORM = """<form method="post" action="/login"><input name="username" value="studio" autocomplete="username" hidden>
<label>Password<br><input name="password" type="password" autocomplete="current-password" required autofocus></label>
<button>Open</button></form>"""


def read_secret(home: Path) -> bytes:
    """The secret of a data directory, made at its first use."""
    file = home / "door.secret"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if len(known := file.read_bytes()) == 16:
            return known
        file.unlink()  # cut short by a crash
        return read_secret(home)
    with os.fdopen(descriptor, "wb") as new:
        new.write(secret := secrets.token_bytes(16))
    return secret


class Throttle:
    """Counts failures of the last minute."""

    def __init__(self) -> None:
        self._failures: deque[tuple[float, str]] = deque()

    def refuses(self, address: str, now: float) -> bool:
        while self._failures and self._failures[0][0] <= now - MINUTE:
            self._failures.popleft()
        of_one = sum(a == address for _, a in self._failures)
        return len(self._failures) >= TRIES or of_one >= TRIES_OF_ONE

    def failed(self, address: str, now: float) -> None:
        self._failures.append((now, address))


class Door:
    """Knows who may come in."""

    def __init__(self, secret: bytes, port: int, password: str | None = None) -> None:
        self.key = hmac.new(secret, (password or "").encode(), hashlib.sha256).hexdigest()[:32]
        self.cookie = f"quip-studio-{port}"
        self._password, self._throttle = password, Throttle()
        self._tickets: dict[str, float] = {}

    def ticket(self) -> str:
        """A key for one visit within two minutes."""
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = time.monotonic() + TICKET_SECONDS
        return ticket

    def knows(self, request: Request) -> bool:
        """The request shows the key."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = bearer if scheme.lower() == "bearer" else request.cookies.get(self.cookie, "")
        return _same(shown, self.key)

    async def answer(self, request: Request) -> Response | None:
        """To somebody at the door: the cookie, the form, or how to come in. None: no matter of the door's."""
        if request.scope["path"] == "/login":
            return await self._login(request) if request.method == "POST" else RedirectResponse("/", 303)
        if token := request.query_params.get("token"):
            ticket = self._tickets.pop(token, 0.0) > time.monotonic()
            if ticket or _same(token, self.key):
                rest = request.url.remove_query_params("token").query
                return self._come_in(f"/?{rest}" if rest else "/")
        return None if self.knows(request) else self._closed(request)

    async def _login(self, request: Request) -> Response:
        address, now = request.client.host if request.client else "", time.monotonic()
        if self._password is None:
            return self._page("This studio has no password. " + HOW, 403)
        if self._throttle.refuses(address, now):
            text = "Too many wrong passwords. Wait a minute, then try again."
            return self._page(text, 429, headers={"retry-after": "60"})
        given = (await request.form()).get("password")
        if not _same(given if isinstance(given, str) else "", self._password):
            self._throttle.failed(address, now)
            return self._page("That is not the password.", 401)
        return self._come_in("/")

    def _come_in(self, to: str) -> Response:
        response = RedirectResponse(to, 303, headers={"cache-control": "no-store"})
        response.set_cookie(self.cookie, self.key, max_age=YEAR, httponly=True, samesite="strict")
        return response

    def _closed(self, request: Request) -> Response:
        # a link on another page brings no strict cookie along; a visit that starts from our own page does
        from_elsewhere = request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        return self._page(HOW if self._password is None else ASK, 403, refresh=from_elsewhere)

    def _page(
        self, text: str, status: int, *, refresh: bool = False, headers: dict[str, str] | None = None
    ) -> Response:
        again = '<meta http-equiv="refresh" content="0; url=/">' if refresh else ""
        content = PAGE.format(refresh=again, text=html.escape(text), form=FORM if self._password else "")
        return HTMLResponse(content, status, {"cache-control": "no-store", **(headers or {})})


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
