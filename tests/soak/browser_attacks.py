"""S2, S8: pages that attack the studio from a real Chromium, and texts that attack its own page.

    python tests/soak/browser_attacks.py [--fast]       (QUIP_CHROMIUM names the browser)

S2: the visitor is known to the studio (the cookie is in the browser) and opens a page of another site: one whose name
points at this machine (rebinding), one on another local port, one on another host. Each tries to read, to call, to
upload, to post a form, and to load pictures. S8: texts that a model, a hub or a file could bring are shown at every
place; a server that notes what it is asked counts what leaks.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright import sync_api
from soak import ROOT, Row, Server, arguments, report

from quip_engine import events
from quip_engine.config import JobConfig
from quip_engine.runs import EventLog, Store

sys.path.append(str(ROOT / "tests" / "app"))
from helpers import tiny_model
from story import tell_finished

CHROMIUM = os.environ.get("QUIP_CHROMIUM") or shutil.which("chromium") or ""
EVIL = "evil.test"
ATTACK = Path(__file__).with_name("attack.js").read_text(encoding="utf-8")
FORM = """<form method=post action="{target}/gradio_api/{path}" enctype="{kind}"><input name=files value=x></form>
<script>document.forms[0].submit()</script>"""
# %s: the recorder's address
LEAKS = (
    *("<script>fetch('%s/a')</script>", "<img src=%s/b>", "<img src=x onerror=\"fetch('%s/c')\">", "![x](%s/d)"),
    *(
        "<svg onload=\"fetch('%s/e')\">",
        "<iframe src=%s/f></iframe>",
        "<link rel=stylesheet href=%s/g>",
        "<base href=%s/>",
    ),
    *("<style>@import '%s/h'</style>", "<video src=%s/i autoplay>", "<object data=%s/j></object>", "<embed src=%s/k>"),
    *(
        '<div style="background:url(%s/l)">',
        "<form action=%s/m><button>ok</button></form>",
        "[x](javascript:fetch('%s/n'))",
    ),
    *(
        "<input autofocus onfocus=\"fetch('%s/o')\">",
        "<details open ontoggle=\"fetch('%s/p')\">",
        "<audio src=%s/q autoplay>",
    ),
    *(
        "<picture><source srcset=%s/r><img></picture>",
        "<meta http-equiv=refresh content='0;url=%s/s'>",
        "<a href=%s/t ping=%s/u>x</a>",
    ),
    *('"><img src=%s/v>', "'><img src=%s/w>", "</textarea><img src=%s/x>", "</script><script>fetch('%s/y')</script>"),
    *("<math><mtext><img src=%s/z></mtext></math>", "<template><img src=%s/0></template>", "<img srcset='%s/1 1x'>"),
    *(
        "${fetch('%s/2')}",
        "{{constructor.constructor('fetch(`%s/3`)')()}}",
        "<x onclick=\"fetch('%s/4')\" autofocus tabindex=1>",
    ),
    *(
        "&lt;img src=%s/5&gt;",
        "<IMG SRC=%s/6>",
        "<img/src=%s/7>",
        "<img\nsrc=%s/8>",
        "<<img src=%s/9>",
        "<image href=%s/10>",
    ),
    *(
        "<svg><image href=%s/11 /></svg>",
        "<svg><use href='%s/12#x'/></svg>",
        "<table background=%s/13>",
        "<body onload=fetch('%s/14')>",
    ),
)
WRAPS = ("%s", "a %s b", "**%s**", "`%s`", '"%s"')


class Recorder(ThreadingHTTPServer):
    """Notes what it is asked for; serves the pages of an attacker."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pages: dict[str, str] = {}
        recorder = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = recorder.pages.get(self.path)
                if page is None:
                    recorder.asked.append(self.path)
                self.send_response(200 if page is not None else 404)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write((page or "").encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@contextmanager
def chromium(server: Server) -> Iterator[sync_api.BrowserContext]:
    flags = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP *.{EVIL} 127.0.0.1, MAP {EVIL} 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(server.opening)  # from now on the browser is known
        page.wait_for_selector("#demo", timeout=120_000)
        yield context
        browser.close()


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


def tell_run(server: Server, text: str) -> str:
    """A run that failed, every text of which is ``text``."""
    store = Store(server.home)
    run = store.create(JobConfig(f"/models/{text}", str(server.home / "out" / text[:60].replace("/", "_"))))
    log = EventLog(run.directory)
    names = [{"name": f"model.layers.0.{text}", "block": 0, "projection": text, "shape": [8, 8]}]
    recipe = {
        "method": "quip#",
        "bits": 2,
        "transform": {"name": text},
        "codebook": {"name": text},
        "rounding": {"name": text},
    }
    text_of = {"source": text, "samples": 1, "seqlen": 1, "windows": [1, 1]}
    values = {"model": f"/models/{text}", "architecture": text, "recipe": recipe, "calibration": text_of, "blocks": 1}
    log.append(events.RunStarted(**values, layers=names, output_bytes=1, seed=0, device="cpu"))
    log.append(events.RunFailed(code="DEFECT", message=text, hint=text, details=text))
    log.close()
    error = {"error": "DEFECT", "message": text, "hint": text, "details": text}
    store.update(run.id, status="failed", started=1.0, finished=2.0, error=error)
    store.describe(run.id, name=text[:80], note=text, tags=[text[:30]])
    return run.id


def shown_texts(server: Server, context: sync_api.BrowserContext, recorder: Recorder, *, fast: bool) -> Row:
    row = Row("S8", "0 executed, 0 requests to elsewhere, 0 foreign form, frame or base")
    address = f"http://127.0.0.1:{recorder.server_port}"
    texts = [(w % leak.replace("%s", address)) for w in WRAPS for leak in LEAKS][:200]
    texts = texts[:: 40 if fast else 1]
    elsewhere: list[str] = []
    page = context.new_page()
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else elsewhere.append(r.url))
    page.on("dialog", lambda d: (elsewhere.append("dialog"), d.dismiss()))
    recorder.asked.clear()
    tell_finished(server.home, *(tiny_model(server.home / "tiny" / name) for name in ("big", "small")))  # to chat with
    run_ids = [tell_run(server, text) for text in texts]
    folder = server.home / "models"
    for k, text in enumerate(texts):
        name = text.replace("/", "∕")[:60].strip()
        (folder / f"{k} {name}").mkdir(parents=True)
        config = {"model_type": text, "architectures": [text], "auto_map": {"AutoModel": text}}
        (folder / f"{k} {name}" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    page.goto(server.url)
    page.wait_for_selector("#demo", timeout=120_000)
    for tab in ("Models", "Monitor", "Runs", "Evaluate", "Compare", "Inspect", "Settings", "Quantize"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1500)
        row.problems += [f"{tab}: {found}" for found in foreign(page, address)]
    places = 8 * len(texts)
    for text in texts[:: 1 if fast else 4]:
        places += typed(page, text)
        row.problems += [f"typed {text!r}: {found}" for found in foreign(page, address)]
    page.close()
    row.problems += [f"asked {url}" for url in {*elsewhere, *recorder.asked}]
    where = f"{len(run_ids)} runs, {len(texts)} model folders, fields of three tabs"
    return row.close(f"{len(texts)} texts in {where}: {places} showings, {len(row.problems)} problems")


def foreign(page: sync_api.Page, address: str) -> list[str]:
    """Elements of the page that lead elsewhere or run."""
    return page.evaluate(
        """address => [...document.querySelectorAll('form, iframe, base, object, embed, [onerror], [onload]')]
            .map(e => e.outerHTML.slice(0, 300)).filter(html => html.includes(address))""",
        address,
    )


def typed(page: sync_api.Page, text: str) -> int:
    """The text as the name of a model, as a prompt, as a folder of the settings: each is answered with it."""
    line = text.replace("\n", " ")
    page.get_by_role("tab", name="Models").click()
    page.locator("#other-model input").fill(line)
    page.click("#check")
    page.locator("#verdict .banner, #verdict .card").first.wait_for(timeout=30_000)
    page.get_by_role("tab", name="Compare").click()
    prompt = page.locator("#prompt textarea")
    prompt.wait_for(timeout=60_000)
    prompt.fill(line)
    prompt.press("Enter")
    page.wait_for_timeout(300)
    page.locator("#send:not([disabled])").wait_for(timeout=120_000)  # both models have answered
    page.get_by_role("tab", name="Runs").click()
    return 3


def attacks(server: Server, *, fast: bool) -> list[Row]:
    recorder = Recorder()
    with chromium(server) as context:
        rows = [foreign_pages(server, context, recorder), shown_texts(server, context, recorder, fast=fast)]
    recorder.shutdown()
    return rows


def main() -> int:
    flags = arguments(__doc__)
    with Server() as server:
        return report(attacks(server, fast=flags.fast))


if __name__ == "__main__":
    raise SystemExit(main())
