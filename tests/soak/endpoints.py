"""S6: nonsense for every function of the page, with the key in hand: the hidden ones, too.

    python tests/soak/endpoints.py [--fast] [--payloads N] [--only NAME]

Each function that the running page lists is called by its index, directly and through the queue, with values of wrong
kinds, sizes and numbers. An answer may be a value or an error that says something; it may not be a status of 500 or
an error without words, and nothing may have been raised that nobody caught (a traceback in the server's log).
"""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any
from urllib.parse import quote

import httpx
from soak import Row, Server, arguments, report

TEXTS = (
    *("", " ", "0", "-1", "1e999", "nan", "true", "null", "[]", "{}", "quip#", "e8p", "hadamard", "run-1", "eval-1"),
    *("a\0b", "\x1b[31m", "\ud800", "\u202egnp", "é" * 300, "x" * 5000, "../../x", "/nowhere", "C:\\x", "~", "%00"),
    *("<script>alert(1)</script>", "{{ 7 * 7 }}", "owner/name", "a b c", "http://127.0.0.1:9/", "'; drop table runs"),
)
NUMBERS = (0, 1, -1, 2, 0.5, 1e-320, 1e308, -1e308, 2**31, 2**63, 2**64, 10**400, math.nan, math.inf, -math.inf)
ODD = (None, True, False, [], {}, [[]], {"value": None}, {"path": "/etc/hostname"}, {"__type__": "update"}, [None] * 50)
LONG = "y" * 2_000_000
DEEP: Any = json.loads("[" * 60 + "]" * 60)
INDEXES = (-1, 10**6, 2**63, "0", "", None, 1.5, True, [0])
NAMES = ("predict", "tick", "no_such", "start_run", "<b>", "%00", "..", "a" * 3000)
POSTS = ("run/predict", "queue/join", "cancel", "reset", "upload", "call/start_run", "call/v2/start_run")
BODIES = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"data": 1}', b"[" * 5000)
KINDS = ("application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x")
GETS = (
    "queue/data",
    "heartbeat/%00",
    "file=",
    "file=%00",
    "call/x/y",
    "upload_progress",
    "upload_progress?upload_id=x",
)


def value(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.01:
        return LONG
    if kind < 0.02:
        return DEEP
    return rng.choice(rng.choice((TEXTS, NUMBERS, ODD)))


def payload(rng: random.Random, components: list[dict[str, Any]], usual: list[Any]) -> list[Any]:
    """One argument list: a few values wrong, all wrong, or the wrong number of them."""
    kind = rng.random()
    if kind < 0.15:
        return [value(rng) for _ in range(rng.randint(0, 2 * len(components) + 2))]
    share = 1.0 if kind < 0.35 else 1.5 / max(1, len(usual))
    return [value(rng) if rng.random() < share else u for u in usual]


class Attack:
    """One server, one client with the key, and what was found."""

    def __init__(self, server: Server, row: Row) -> None:
        self.server, self.row, self.calls = server, row, 0
        self.client = httpx.Client(base_url=server.url, cookies=server.cookies, timeout=120)
        self.config = self.client.get("/config").json()
        self.components = {c["id"]: c for c in self.config["components"]}
        self.logged = 0

    def functions(self) -> list[dict[str, Any]]:
        return [d for d in self.config["dependencies"] if d["backend_fn"]]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        content = json.dumps(body)
        self.calls += 1
        return self.client.post(f"/gradio_api/{path}", content=content, headers={"content-type": "application/json"})

    def judge(self, what: str, answer: httpx.Response) -> None:
        if answer.status_code >= 500 and answer.status_code != 503:  # 503: the queue is full
            self.row.problems.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        if "DEFECT" in answer.text:
            self.row.problems.append(f"{what}: {answer.text[:300]}")
        if answer.status_code != 200 and '"error":null' in answer.text.replace(" ", ""):
            self.row.problems.append(f"{what}: an error without words")

    def listen(self, what: str) -> None:
        """Note what the server has written since the last look."""
        log = self.server.log
        if new := log[self.logged :].strip():
            self.row.problems.append(f"{what}: logged {new[-700:]}")
        self.logged = len(log)

    def function(self, fn: dict[str, Any], count: int) -> None:
        rng = random.Random(fn["id"])
        parts = [self.components[i] for i in fn["inputs"]]
        usual = [p["props"].get("value") for p in parts]
        what = f"{fn['id']} {fn['api_name']}"
        for k in range(count):
            body = {"data": payload(rng, parts, usual), "fn_index": fn["id"], "session_hash": f"s{k % 3}"}
            body["event_data"] = rng.choice((None, {}, {"action": value(rng)}, {"action": rng.choice(TEXTS)}, "x"))
            self.judge(what, self.post("run/predict", body))
        self.queued(what, {"data": payload(rng, parts, usual), "fn_index": fn["id"], "session_hash": "q"})
        self.listen(what)

    def queued(self, what: str, body: dict[str, Any]) -> None:
        """The same through the queue, listening to the end."""
        joined = self.post("queue/join", body)
        self.judge(what, joined)
        if joined.status_code != 200:
            return
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "q"}) as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    if '"error":null' in line.replace(" ", "") and '"success":false' in line.replace(" ", ""):
                        self.row.problems.append(f"{what}: an error without words in the queue")
                    return

    def of_components(self, count: int) -> int:
        """What the scripts of components call."""
        rng = random.Random(0)
        found = [(c["id"], f) for c in self.config["components"] for f in c["props"].get("server_fns") or ()]
        for number, name in found:
            for _ in range(count):
                data = rng.choice((value(rng), {"page": value(rng), "number": value(rng), "tab": value(rng)}))
                body = {"session_hash": "s", "component_id": number, "fn_name": name, "data": data}
                if rng.random() < 0.2:
                    body[rng.choice(tuple(body))] = value(rng)
                self.judge(f"component {name}", self.post("component_server/", body))
        self.listen("components")
        return len(found)

    def around(self) -> None:
        """Functions that do not exist, and bodies that are none."""
        for index in INDEXES:
            for path in ("run/predict", "queue/join"):
                self.judge(f"{path} {index!r}", self.post(path, {"data": [], "fn_index": index, "session_hash": "n"}))
        for name in NAMES:
            for path in ("run", "call", "call/v2"):
                self.judge(f"{path}/{name}", self.post(f"{path}/{quote(name)}", {"data": []}))
        for path, body, kind in itertools.product(POSTS, BODIES, KINDS):
            answer = self.client.post(f"/gradio_api/{path}", content=body, headers={"content-type": kind})
            self.calls += 1
            self.judge(f"{path} {body[:10]!r} {kind}", answer)
        for path in GETS:
            with self.client.stream("GET", f"/gradio_api/{path}") as answer:
                if answer.status_code >= 500:
                    self.row.problems.append(f"GET {path}: {answer.status_code}")
        self.listen("around")


def nonsense(server: Server, payloads: int, only: str = "") -> Row:
    row = Row("S6", "0 uncaught exceptions, 0 errors without words, 0 status 500")
    attack = Attack(server, row)
    attack.around()
    functions = [f for f in attack.functions() if only in f["api_name"]]
    for fn in functions:
        attack.function(fn, payloads)
    components = attack.of_components(payloads)
    if server.process.poll() is not None or attack.client.get("/config").status_code != 200:
        row.problems.append("the server does not answer any more")
    counted = f"{attack.calls} calls of {len(functions) + components} functions"
    return row.close(f"{counted}: {len(row.problems)} problems")


def main() -> int:
    flags = arguments(__doc__, payloads={"type": int, "default": 500}, only={"default": ""})
    with Server() as server:
        return report([nonsense(server, 4 if flags.fast else flags.payloads, flags.only)])


if __name__ == "__main__":
    raise SystemExit(main())
