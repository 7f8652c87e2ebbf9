"""S7: paths that lead out, in every field that takes a path and in the route that serves files.

    python tests/soak/paths.py [--fast]

Every field of the page that takes text has all of them once, in the first function that is given it, and a twentieth in
every other function. A canary file lies outside of every root. No answer may hold its text, no file may appear outside
of the data directory, and what lies there may not change.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx
from soak import DEMO, Row, Server, arguments, report

CANARY = "canary-7f3a91"
STEPS = (
    "..",
    "%2e%2e",
    "..%2f..",
    "....//",
    "..\\..",
    "%252e%252e",
    "..;",
    "\u2025",
    "．．",
    "..%00",
    "..%c0%af",
    ".%2e",
)
PLACES = ("etc/hostname", "proc/self/environ", "proc/self/cmdline", ".env", "app.py", "{canary}")
WHOLE = (
    *(
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/dev/zero",
        "/dev/stdin",
        "~",
        "~root/.bashrc",
        "~/.ssh/id",
    ),
    *(
        "\\\\server\\share",
        "C:\\Windows\\win.ini",
        "//etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "a\0b",
    ),
    *(
        "/" + "a" * 5000,
        "a/" * 2500,
        ".",
        "..",
        "...",
        " ",
        "\u202e/etc",
        "/etc/passwd\0.json",
        "$(touch x)",
        "`id`",
        ";id",
        "|id",
    ),
    *(
        "{link}",
        "{link}/config.json",
        "{canary}",
        "{canary}/..",
        "{folder}",
        "CON",
        "NUL",
        "-rf",
        "--help",
        "%",
        "%s",
        "\n/etc",
    ),
)
# A person may have a model written anywhere that is new; these are not
TAKEN = (
    "{folder}",
    "{canary}",
    "{canary}/x",
    "{demo}",
    "{demo}/x",
    "/proc/x",
    "/dev/null",
    "/dev/null/x",
    "a\0b",
    "/" + "a" * 5000,
)
AGAIN = 20  # of so many paths, one for a function that is not the first with its field
WRITING = ("start", "enqueue", "export", "push")
# Public functions, and the fields of theirs that are read
FIELDS = {
    "start_run": (("model", 0), ("calibration", 4)),
    "evaluate": (("model", 0), ("against", 1), ("text", 2)),
    "generate": (("model", 0),),
    "run_status": (("run_id", 0),),
    "resume_run": (("run_id", 0),),
    "evaluation_status": (("evaluation_id", 0),),
}
USUAL = {
    "start_run": ["{demo}", "nearest", 4.0, "{inside}", "bundled", 2, 16, 0, None],
    "evaluate": ["{demo}", "", "bundled", 16, 1],
    "generate": ["{demo}", "a", 1, 0.0, 1.0, 0, 0],
    "run_status": [""],
    "resume_run": [""],
    "evaluation_status": [""],
}


def corpus(names: dict[str, str]) -> list[str]:
    """300 paths, most of them out of wherever they start."""
    found = [w.format(**names) if "{" in w and "$(" not in w else w for w in WHOLE]
    for depth, step, place in itertools.product((1, 3, 8, 12), STEPS, PLACES):
        found.append("/".join([*[step] * depth, place.format(**names).lstrip("/")]))
    return found[:300]


def paths_of_page(config: dict) -> list[tuple[dict, int]]:
    """(function, input) of the page whose component is a text."""
    kinds = {c["id"]: c["type"] for c in config["components"]}
    texts = []
    for function in (f for f in config["dependencies"] if f["backend_fn"] and f["api_visibility"] == "private"):
        texts += [(function, k) for k, i in enumerate(function["inputs"]) if kinds[i] == "textbox"]
    return texts


class Walk:
    """One server, a folder outside of it, and what was found."""

    def __init__(self, server: Server, outside: Path, row: Row) -> None:
        self.row, self.outside, self.calls = row, outside, 0
        (outside / "canary.json").write_text(CANARY, encoding="utf-8")
        (outside / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
        link = server.home / "models" / "link"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside)
        self.names = {"canary": str(outside / "canary.json"), "folder": str(outside), "link": str(link)}
        self.names |= {"demo": str(DEMO), "inside": str(server.home / "models" / "made")}
        self.before = self.seen()
        self.client = httpx.Client(base_url=server.url, cookies=server.cookies, timeout=120)
        self.config = self.client.get("/config").json()
        self.functions = {f["api_name"]: f for f in self.config["dependencies"]}

    def seen(self) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in self.outside.rglob("*")}

    def call(self, function: dict, data: list, what: str) -> str:
        body = json.dumps({"data": data, "fn_index": function["id"], "session_hash": "s"})
        kind = {"content-type": "application/json"}
        return self.judge(what, self.client.post("/gradio_api/run/predict", content=body, headers=kind).text)

    def judge(self, what: str, text: str) -> str:
        self.calls += 1
        if CANARY in text or "root:x:" in text or "PATH=" in text:
            self.row.problems.append(f"{what}: read")
        if "DEFECT" in text:
            self.row.problems.append(f"{what}: {text[:200]}")
        return text

    def usual(self, name: str, at: int, path: str) -> list:
        data = [v.format(**self.names) if isinstance(v, str) else v for v in USUAL[name]]
        return [*data[:at], path, *data[at + 1 :]]

    def served(self, path: str) -> None:
        for form in {path, quote(path, safe=""), quote(path)}:
            if "\0" not in form and "\n" not in form:
                answer = self.client.get(f"/gradio_api/file={form[:8000]}")
                self.judge(f"file={form[:80]}", answer.text)
                if answer.status_code == 200:
                    self.row.problems.append(f"file={form[:80]}: served")

    def read(self, path: str) -> None:
        for name, places in FIELDS.items():
            for field, at in places:
                self.call(self.functions[name], self.usual(name, at, path), f"{name} {field}={path[:60]!r}")

    def written(self, path: str) -> None:
        what = f"start_run out={path[:60]!r}"
        text = self.call(self.functions["start_run"], self.usual("start_run", 3, path), what)
        if '"error"' not in text:
            self.row.problems.append(f"{what}: {text[:200]}")

    def typed(self, paths: list[str]) -> None:
        values = {c["id"]: c["props"].get("value") for c in self.config["components"]}
        met: set[int] = set()
        for function, at in paths_of_page(self.config):
            if function["api_name"].startswith(WRITING):
                continue
            field = function["inputs"][at]
            some = paths[at % AGAIN :: AGAIN] if field in met else paths
            met.add(field)
            for path in some:
                data = [path if k == at else values[i] for k, i in enumerate(function["inputs"])]
                self.call(function, data, f"{function['api_name']} {at}={path[:60]!r}")


def lead_out(server: Server, *, fast: bool) -> Row:
    row = Row("S7", "0 reads and writes outside of the roots")
    with tempfile.TemporaryDirectory() as outside:
        walk = Walk(server, Path(outside), row)
        paths = corpus(walk.names)[:: 30 if fast else 1]
        for path in paths:
            walk.served(path)
            walk.read(path)
        for path in TAKEN:
            walk.written(path.format(**walk.names))
        walk.typed(paths[:: 5 if fast else 1])
        if walk.seen() != walk.before:
            row.problems.append("something outside was changed")
    return row.close(f"{len(paths)} paths, {walk.calls} calls: {len(row.problems)} problems")


def main() -> int:
    flags = arguments(__doc__)
    with Server() as server:
        return report([lead_out(server, fast=flags.fast)])


if __name__ == "__main__":
    raise SystemExit(main())
