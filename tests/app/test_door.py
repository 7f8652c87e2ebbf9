"""The key opens once and becomes a cookie; passwords are tried slowly; secrets stay their owner's."""

import asyncio
import stat
from urllib.parse import urlencode

import pytest
from starlette.requests import Request

from app import door as doors
from app.door import Door, Throttle, read_secret

SECRET = b"0123456789abcdef"


def visit(door, path="/", query="", *, headers=None, body=None, address="10.0.0.1"):
    async def receive():
        return {"type": "http.request", "body": body or b"", "more_body": False}

    raw = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    raw += [(b"host", b"127.0.0.1:7860"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "headers": raw}
    scope |= {"query_string": query.encode(), "client": (address, 1), "server": ("127.0.0.1", 7860), "scheme": "http"}
    return asyncio.run(door.answer(Request(scope, receive)))


def login(door, password, address="10.0.0.1"):
    return visit(door, "/login", body=urlencode({"username": "studio", "password": password}).encode(), address=address)


def test_the_printed_key_becomes_a_cookie_and_leaves_the_address():
    door = Door(SECRET, 7860)
    answer = visit(door, query=f"token={door.key}&__theme=dark")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?__theme=dark")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"quip-studio-7860={door.key};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert visit(door, headers={"cookie": f"quip-studio-7860={door.key}"}) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_programs_show_the_key_in_a_header(scheme):
    door = Door(SECRET, 7860)
    assert visit(door, "/config", headers={"authorization": f"{scheme} {door.key}"}) is None
    assert visit(door, "/config", headers={"authorization": f"Basic {door.key}"}).status_code == 403


@pytest.mark.parametrize("token", ["", "wrong", "é", "%00", "a" * 100_000])
def test_other_keys_open_nothing(token):
    door = Door(SECRET, 7860)
    assert visit(door, query=f"token={token}").status_code == 403
    assert visit(door, headers={"cookie": f"quip-studio-7860={token}"}).status_code == 403
    assert visit(door, headers={"cookie": f"quip-studio-7861={door.key}"}).status_code == 403


def test_a_stranger_reads_how_to_come_in():
    answer = visit(Door(SECRET, 7860))
    assert answer.headers["content-type"].startswith("text/html")
    assert b"Open the address that the terminal printed" in answer.body
    assert b"password" not in answer.body
    assert b"refresh" not in answer.body


def test_a_link_from_elsewhere_starts_again_from_our_page():
    answer = visit(Door(SECRET, 7860), headers={"sec-fetch-site": "cross-site"})
    assert b'http-equiv="refresh" content="0; url=/"' in answer.body


def test_a_ticket_is_good_for_one_visit(monkeypatch):
    door = Door(SECRET, 7860)
    ticket = door.ticket()
    assert ticket != door.key
    assert visit(door, query=f"token={ticket}").status_code == 303
    assert visit(door, query=f"token={ticket}").status_code == 403
    late = door.ticket()
    monkeypatch.setattr(doors.time, "monotonic", lambda: float("inf"))
    assert visit(door, query=f"token={late}").status_code == 403


def test_the_password_opens_and_another_one_ends_its_sessions():
    door = Door(SECRET, 7860, "long enough")
    assert b'action="/login"' in visit(door).body
    answer = login(door, "long enough")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert visit(door, headers={"cookie": cookie}) is None
    assert visit(Door(SECRET, 7860, "another one"), headers={"cookie": cookie}).status_code == 403
    assert visit(door, "/login").headers["location"] == "/"


def test_without_a_password_there_is_nothing_to_try():
    assert login(Door(SECRET, 7860), "").status_code == 403


def test_wrong_passwords_are_slowed():
    door = Door(SECRET, 7860, "long enough")
    assert [login(door, "guess").status_code for _ in range(7)] == [401] * 5 + [429] * 2
    assert login(door, "long enough").status_code == 429
    assert login(door, "long enough", "10.0.0.2").status_code == 303
    tries = [login(door, "guess", f"10.0.1.{k}").status_code for k in range(20)]
    assert tries == [401] * 5 + [429] * 15
    assert login(door, "long enough", "10.0.0.3").headers["retry-after"] == "60"


def test_a_minute_later_one_may_try_again():
    throttle = Throttle()
    for _ in range(5):
        throttle.failed("a", 0.0)
    assert throttle.refuses("a", 59.9)
    assert not throttle.refuses("a", 60.0)


def test_the_secret_is_made_once_and_private(tmp_path):
    secret = read_secret(tmp_path)
    assert len(secret) == 16
    assert read_secret(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / "door.secret").stat().st_mode) == 0o600
    (tmp_path / "door.secret").write_bytes(b"cut")
    assert len(read_secret(tmp_path)) == 16
