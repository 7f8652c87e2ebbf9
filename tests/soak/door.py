"""S1, S3, S4, S5, S11, S13, S14: whom the studio lets in, what is there, how much it takes.

    python tests/soak/door.py [--fast]

Requests are made by hand, with headers that a browser would send from a foreign page, to every route of the running
server: those of FastAPI and Gradio as the program itself lists them, and those that the guard lists.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
from audit import floors
from soak import Row, Server, arguments, report

from app.guard import BODY, PUBLIC, READ, WRITE

HOSTS = ("evil.example", "127.0.0.1.evil.example", "169.254.1.1", "", "localhost.evil.example:{port}", "[::2]:{port}")
ORIGINS = ("http://evil.example", "null", "http://localhost:18999", "https://127.0.0.1", "file://", "http://{port}")
FETCHES = tuple(
    {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    for site in ("cross-site", "same-site")
    for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "document"))
)
# Routes of Gradio that must not be reachable, and what FastAPI adds unless told not to
HIDDEN = (
    "/openapi.json",
    "/docs",
    "/redoc",
    "/gradio_api/openapi.json",
    "/gradio_api/mcp/sse",
    "/gradio_api/vibe-edit",
)
APPROVED = {
    "list_models",
    "start_run",
    "run_status",
    "pause_run",
    "resume_run",
    "evaluate",
    "evaluation_status",
    "generate",
}
LISTED = """import json, sys; sys.path.insert(0, "."); from pathlib import Path
from fastapi import FastAPI; import gradio as gr
from app.main import build, launch_options; from app.studio import Studio
page = gr.mount_gradio_app(FastAPI(openapi_url=None), build(Studio(Path(sys.argv[1]))), "/", **launch_options())
def walk(routes, before=""):
    for route in routes:
        if hasattr(route, "methods"): yield [before + route.path, sorted(route.methods or ())]
        elif hasattr(route, "routes"): yield from walk(route.routes, before + getattr(route, "path", ""))
        elif getattr(route, "original_router", None): yield from walk(route.original_router.routes, before)
print(json.dumps(list(walk(page.routes))))"""
CLIENT = httpx.Client(timeout=60, verify=False)  # plain http: certificates would only cost time


def routes(home: Path) -> list[tuple[str, str]]:
    """(method, path) of everything that the program would answer to, with something in the place of parameters."""
    done = subprocess.run([sys.executable, "-c", LISTED, str(home)], check=True, capture_output=True, text=True)
    listed = json.loads(done.stdout.strip().splitlines()[-1])
    found = {(m, re.sub(r"\{[^}]*\}", "x", path)) for path, methods in listed for m in methods}
    return sorted(found.union(guarded()))


def guarded() -> list[tuple[str, str]]:
    """(method, path) of what the guard lists, and some that it does not."""
    return [*(("GET", p) for p in (*READ, *HIDDEN)), *(("POST", p) for p in (*WRITE, "/gradio_api/vibe-edit"))]


def state(server: Server) -> tuple[object, ...]:
    """What a request could have changed: runs, uploads, and every other file of the data directory."""
    files = sorted(str(p.relative_to(server.home)) for p in server.home.rglob("*") if p.is_file())
    return tuple(f for f in files if not f.endswith(("-wal", "-shm")))


def refused(server: Server, method: str, path: str, headers: dict[str, str]) -> int:
    body = {"content": b'{"data": [], "fn_index": 0, "session_hash": "s"}'} if method == "POST" else {}
    kind = {"content-type": "application/json"} if method == "POST" else {}
    with (
        httpx.Client(timeout=20) as client,
        client.stream(method, server.url + path, headers={**kind, **headers}, **body) as r,
    ):
        return r.status_code


def origins(server: Server, everything: list[tuple[str, str]], *, fast: bool) -> Row:
    row = Row("S1", "100 % refused outside the allow list, 0 side effects")
    ours = {"host": f"127.0.0.1:{server.port}", "cookie": server.cookie}
    foreign = [{**ours, "host": h.format(port=server.port)} for h in HOSTS]
    foreign += [{**ours, "origin": o.format(port=server.port)} for o in ORIGINS]
    foreign += [{**ours, **f} for f in FETCHES]
    crossed = itertools.product(HOSTS, ORIGINS)
    foreign += [{**ours, "host": h.format(port=server.port), "origin": o.format(port=server.port)} for h, o in crossed]
    foreign += [{**ours, "host": h.format(port=server.port), **FETCHES[k]} for k, h in enumerate(HOSTS)]
    before, calls = state(server), 0
    for (method, path), headers in itertools.product(everything, foreign[:: 9 if fast else 1]):
        visit = (method, path) == ("GET", "/") and headers.get("sec-fetch-dest") == "document"
        if visit and headers["host"] == ours["host"]:
            continue  # a link to the page is all right
        calls += 1
        if (status := refused(server, method, path, headers)) not in (403, 421):
            row.problems.append(f"{method} {path} {headers}: {status}")
    if state(server) != before:
        row.problems.append("something was changed")
    return row.close(
        f"{len(foreign)} combinations x {len(everything)} routes: {calls} requests, {len(row.problems)} passed"
    )


def strangers(server: Server, everything: list[tuple[str, str]]) -> Row:
    row = Row("S3", "every route but static needs the key; 0 side effects without it")
    before, calls = state(server), 0
    wrong = ("", f"quip-studio-{server.port}={'0' * 32}", f"quip-studio-{server.port + 1}={server.token}")
    for (method, path), cookie in itertools.product(everything, wrong):
        calls += 1
        status = refused(server, method, path, {"cookie": cookie})
        if status not in (403, 404) and path not in PUBLIC and path != "/login":
            row.problems.append(f"{method} {path}: {status}")
    if state(server) != before:
        row.problems.append("something was changed")
    answer = httpx.get(server.opening)
    cookie = answer.headers.get("set-cookie", "")
    if answer.status_code != 303 or "token" in answer.headers["location"]:
        row.problems.append("the key stays in the address")
    if not all(word in cookie for word in ("HttpOnly", "SameSite=strict", server.token)) or len(server.token) != 32:
        row.problems.append(f"the cookie is {cookie}")
    return row.close(f"{calls} requests without the key: {len(row.problems)} passed; cookie HttpOnly, SameSite=Strict")


def bound(server: Server) -> Row:
    row = Row("S4", "127.0.0.1 only, also with GRADIO_* set; --listen only with a password")
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    listening = {c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    for address in listening - {("127.0.0.1", server.port)}:
        row.problems.append(f"listens on {address}")
    flags = ([], ["--host", "0.0.0.0"], ["--listen"], ["--listen", "--host", "::"])
    for flag in flags[1:]:
        done = subprocess.run([sys.executable, "app.py", "--port", "0", *flag], capture_output=True, check=False)
        if done.returncode != 2:
            row.problems.append(f"{flag}: started")
    return row.close(
        f"listens on {sorted(f'{a.ip}:{a.port}' for a in listening)}; {len(flags) - 1} ways without a password refused"
    )


def snapshot(server: Server, everything: list[tuple[str, str]]) -> Row:
    row = Row("S5", "routes and public functions are those of the approved lists; every function checks its values")
    ours, served = {"cookie": server.cookie}, 0
    for method, path in everything:
        listed = path in READ + WRITE or any(path.startswith(k) for k in READ + WRITE if len(k) > 1 and k[-1] in "/=")
        status = refused(server, method, path, ours)
        served += status != 404
        if not listed and status != 404:
            row.problems.append(f"{method} {path}: {status}")
    for path in HIDDEN:
        if (status := refused(server, "GET", path, ours)) != 404:
            row.problems.append(f"{path}: {status}")
    functions = httpx.get(f"{server.url}/config", headers=ours).json()["dependencies"]
    public = {f["api_name"] for f in functions if f["api_visibility"] != "private"}
    if public != APPROVED:
        row.problems.append(f"public functions: {public ^ APPROVED}")
    for function in (f for f in functions if f["backend_fn"]):
        call = {"data": [{"not": "this"}] * (len(function["inputs"]) + 1), "fn_index": function["id"]}
        answer = CLIENT.post(f"{server.url}/gradio_api/run/predict", json=call, headers=ours)
        if answer.status_code != 422:
            row.problems.append(f"{function['api_name']}: {answer.status_code}")
    return row.close(
        f"{served} of {len(everything)} routes served; {len(public)} of {len(functions)} functions public; all checked"
    )


def break_off(server: Server, body: bytes, headers: dict[str, str], *, ends: bool) -> None:
    """Send a part of an upload, then nothing more: the end of the request, or not even that."""
    lines = [f"POST /gradio_api/upload HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ntransfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + f"{len(body):x}\r\n".encode() + body + b"\r\n")
        time.sleep(0.5)
        if ends:
            connection.sendall(b"0\r\n\r\n")
            connection.recv(1000)


def uploads(server: Server) -> Row:
    row = Row("S11", "413 at the limit, also in chunks; at most limit + one chunk on disk, nothing stays")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    headers = {"cookie": server.cookie, "content-type": "multipart/form-data; boundary=x"}
    folder, url, most = server.home / "uploads", f"{server.url}/gradio_api/upload", 0

    def stray() -> int:
        return sum(p.stat().st_size for p in folder.glob("*") if p.is_file())

    def parts(size: int):
        nonlocal most
        yield head
        for _ in range(size >> 16):
            yield bytes(1 << 16)
            most = max(most, stray())
        yield b"\r\n--x--\r\n"

    for body in (head + bytes(BODY) + b"\r\n--x--\r\n", parts(4 * BODY)):
        try:
            status = httpx.post(url, content=body, headers=headers).status_code
        except httpx.WriteError:  # the server has hung up on the rest
            status = 413
        if status != 413:
            row.problems.append(f"a body that is too long: {status}")
    for ends in (True, False):  # without its last line, and without its end
        break_off(server, head + bytes(1 << 20), headers, ends=ends)
    time.sleep(0.5)
    if most > BODY + (1 << 16) or stray():
        row.problems.append(f"{most} bytes were on disk, {stray()} stay")
    return row.close(
        f"413 at {BODY >> 20} MB with and without a length; {most / 2**20:.1f} MB on disk at most, {stray()} B stay"
    )


def passwords() -> Row:
    row = Row("S14", "at most 10 tries a minute")
    with Server() as probe:
        file = probe.home / "password"
        file.write_text("a long enough password", encoding="utf-8")
        with Server("--listen", "--password-file", str(file)) as server:
            begun, tried, headers = time.monotonic(), 0, {"host": f"127.0.0.1:{server.port}"}
            for k in range(100):
                data = {"username": "studio", "password": f"guess {k}"}
                tried += CLIENT.post(f"{server.url}/login", data=data, headers=headers).status_code == 401
            took = time.monotonic() - begun
            if tried > 10:
                row.problems.append(f"{tried} tries got an answer")
            right = httpx.post(f"{server.url}/login", data={"password": "a long enough password"})
            if right.status_code != 429:
                row.problems.append(f"the right one during the pause: {right.status_code}")
    return row.close(f"100 guesses in {took:.1f} s: {tried} were looked at, 429 to the others")


def main() -> int:
    flags = arguments(__doc__)
    share = {
        "GRADIO_SHARE": "True",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_MCP_SERVER": "True",
    }
    with Server(environment=share) as server:
        everything = routes(server.home)
        rows = [
            *(origins(server, everything, fast=flags.fast), strangers(server, everything), bound(server)),
            *(snapshot(server, everything), uploads(server)),
        ]
    return report([*rows, passwords(), floors()])


if __name__ == "__main__":
    raise SystemExit(main())
