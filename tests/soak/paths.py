"""S7: paths that lead out, in every field that takes a path and in the route that serves files.

    python tests/soak/paths.py [--fast]

A canary file lies outside of every root. No answer may hold its text, no file may appear outside of the data directory,
and what lies there may not change.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx
from soak import ROOT, Row, Server, arguments, report

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


def main() -> int:
    flags = arguments(__doc__)
    row = Row("S7", "0 reads and writes outside of the roots")
    calls = 0
    with tempfile.TemporaryDirectory() as outside, Server() as server:
        folder = Path(outside)
        (folder / "canary.json").write_text(CANARY, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
        link = server.home / "uploads" / "link"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder)
        names = {"canary": str(folder / "canary.json"), "folder": outside, "link": str(link)}
        names |= {"demo": str(ROOT / "assets" / "demo-model"), "inside": str(server.home / "models" / "made")}
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        client = httpx.Client(base_url=server.url, cookies=server.cookies, timeout=120)

        def call(function: dict, data: list) -> str:
            body = json.dumps({"data": data, "fn_index": function["id"], "session_hash": "s"})
            kind = {"content-type": "application/json"}
            return client.post("/gradio_api/run/predict", content=body, headers=kind).text

        def judge(what: str, text: str) -> None:
            nonlocal calls
            calls += 1
            if CANARY in text or "root:x:" in text or "PATH=" in text:
                row.problems.append(f"{what}: read")

        config = client.get("/config").json()
        functions = {f["api_name"]: f for f in config["dependencies"]}
        values = {c["id"]: c["props"].get("value") for c in config["components"]}
        paths = corpus(names)[:: 12 if flags.fast else 1]
        for path in paths:
            for form in {path, quote(path, safe=""), quote(path)}:
                if "\0" not in form and "\n" not in form:
                    answer = client.get(f"/gradio_api/file={form[:8000]}")
                    judge(f"file={form[:80]}", answer.text)
                    if answer.status_code == 200:
                        row.problems.append(f"file={form[:80]}: served")
            for name, places in FIELDS.items():
                for field, at in places:
                    data = [v.format(**names) if isinstance(v, str) else v for v in USUAL[name]]
                    data[at] = path
                    judge(f"{name} {field}={path[:60]!r}", call(functions[name], data))
        for path in (t.format(**names) for t in TAKEN):
            data = [v.format(**names) if isinstance(v, str) else v for v in USUAL["start_run"]]
            data[3] = path
            text = call(functions["start_run"], data)
            judge(f"start_run out={path[:60]!r}", text)
            if '"error"' not in text or "DEFECT" in text:
                row.problems.append(f"start_run out={path[:60]!r}: {text[:200]}")
        for function, at in paths_of_page(config):
            if function["api_name"].startswith(WRITING):
                continue
            for path in paths[:: 4 if flags.fast else 10]:
                data = [values[i] for i in function["inputs"]]
                data[at] = path
                judge(f"{function['api_name']} {at}={path[:60]!r}", call(function, data))
        if {p: p.stat().st_mtime_ns for p in folder.rglob("*")} != before:
            row.problems.append("something outside was changed")
        return report([row.close(f"{len(paths)} paths, {calls} calls: {len(row.problems)} problems")])


if __name__ == "__main__":
    raise SystemExit(main())
