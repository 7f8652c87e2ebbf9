"""S2, S8: pages that attack the studio from a real Chromium, and texts that attack its own page.

    python tests/soak/browser_attacks.py [--fast] [--texts N]       (QUIP_CHROMIUM names the browser)

S2: the visitor is known to the studio (the cookie is in the browser) and opens a page of another site: one whose name
points at this machine (rebinding), one on another local port, one on another host. Each tries to read, to call, to
upload, to post a form, and to load pictures. S8: ``texts.py``.
"""

from __future__ import annotations

from pathlib import Path

from browser import EVIL, Recorder, chromium
from playwright import sync_api
from soak import Row, Server, arguments, report
from texts import shown_texts

from quip_engine.runs import Store

ATTACK = Path(__file__).with_name("attack.js").read_text(encoding="utf-8")
FORM = """<form method=post action="{target}/gradio_api/{path}" enctype="{kind}"><input name=files value=x></form>
<script>document.forms[0].submit()</script>"""


def things(server: Server) -> tuple[int, int]:
    """Runs and uploads."""
    return len(Store(server.home).list()), sum(p.is_file() for p in (server.home / "uploads").rglob("*"))


def foreign_pages(server: Server, context: sync_api.BrowserContext, recorder: Recorder) -> Row:
    row = Row("S2", "0 reads, 0 writes, 0 jobs started from foreign pages")
    before, tried = things(server), 0
    recorder.pages["/evil"] = "<!doctype html><title>evil</title><body>"
    port, other = server.port, recorder.server_port
    page = context.new_page()
    ours = tuple(f"http://{name}:{port}/" for name in ("127.0.0.1", "localhost", EVIL))
    passed: list[str] = []  # opaque to the page, but not to us
    page.on("response", lambda r: passed.append(r.url) if r.url.startswith(ours) and r.status < 400 else None)
    for name in (
        f"http://{EVIL}:{other}",
        f"http://localhost:{other}",
        f"http://127.0.0.1:{other}",
        f"http://a.{EVIL}:{other}",
    ):
        for target in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://{EVIL}:{port}"):
            page.goto(f"{name}/evil")
            told = page.evaluate(ATTACK, target)
            tried += len(told)
            bad = {k: v for k, v in told.items() if v.startswith("200") or v in ("shown", "read")}
            row.problems += [f"{name} -> {target} {k}: {v}" for k, v in bad.items()]
    for path, kind in (
        (p, k) for p in ("upload", "run/predict", "queue/join") for k in ("multipart/form-data", "text/plain")
    ):
        recorder.pages["/form"] = FORM.format(target=f"http://127.0.0.1:{port}", path=path, kind=kind)
        with page.expect_response(lambda r: "/gradio_api/" in r.url) as got:
            page.goto(f"http://localhost:{other}/form")
        tried += 1
        if got.value.status not in (403, 421):
            row.problems.append(f"form {path} {kind}: {got.value.status}")
    for path in ("/", "/config", "/gradio_api/info"):
        answer = page.goto(f"http://{EVIL}:{port}{path}")
        tried += 1
        if answer is None or answer.status != 421 or "gradio" in page.content():
            row.problems.append(f"rebinding {path}: {answer and answer.status}")
    page.close()
    row.problems += [f"{url} was answered" for url in passed]
    if things(server) != before:
        row.problems.append(f"runs and uploads: {before} -> {things(server)}")
    return row.close(f"{tried} attempts: {len(row.problems)} got through")


def attacks(server: Server, *, fast: bool, count: int = 200) -> list[Row]:
    recorder = Recorder()
    with chromium(server) as context:
        rows = [foreign_pages(server, context, recorder), shown_texts(server, context, recorder, 5 if fast else count)]
    recorder.shutdown()
    return rows


def main() -> int:
    flags = arguments(__doc__, texts={"type": int, "default": 200})
    with Server() as server:
        return report(attacks(server, fast=flags.fast, count=flags.texts))


if __name__ == "__main__":
    raise SystemExit(main())
