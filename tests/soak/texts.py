"""S8: texts that a model, a hub or a file could bring, at every place of the page; a part of ``browser_attacks.py``.

A text may be read. It may not run, load or lead elsewhere: its scripts call ``fetch``, all else names an address of the
recorder. A spy in the page notes both, also where the page's policy refuses them; the recorder notes what arrives.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from browser import Recorder
from playwright import sync_api
from soak import ROOT, Row, Server

from app.report import report
from app.state import read_view
from quip_engine import events
from quip_engine.config import JobConfig
from quip_engine.runs import EventLog, Run, Store

sys.path.append(str(ROOT / "tests" / "app"))
from helpers import tiny_model
from story import tell_finished

# %s: the recorder's address
LEAKS = [
    "<img\nsrc=%s/8>",
    *"""<script>fetch('%s/a')</script>
<img src=%s/b>
<img src=x onerror="fetch('%s/c')">
![x](%s/d)
<svg onload="fetch('%s/e')">
<iframe src=%s/f></iframe>
<link rel=stylesheet href=%s/g>
<base href=%s/>
<style>@import '%s/h'</style>
<video src=%s/i autoplay>
<object data=%s/j></object>
<embed src=%s/k>
<div style="background:url(%s/l)">
<form action=%s/m><button>ok</button></form>
[x](javascript:fetch('%s/n'))
<input autofocus onfocus="fetch('%s/o')">
<details open ontoggle="fetch('%s/p')">
<audio src=%s/q autoplay>
<picture><source srcset=%s/r><img></picture>
<meta http-equiv=refresh content='0;url=%s/s'>
<a href=%s/t ping=%s/u>x</a>
"><img src=%s/v>
'><img src=%s/w>
</textarea><img src=%s/x>
</script><script>fetch('%s/y')</script>
<math><mtext><img src=%s/z></mtext></math>
<template><img src=%s/0></template>
<img srcset='%s/1 1x'>
${fetch('%s/2')}
{{constructor.constructor('fetch(`%s/3`)')()}}
<x onclick="fetch('%s/4')" autofocus tabindex=1>
&lt;img src=%s/5&gt;
<IMG SRC=%s/6>
<img/src=%s/7>
<<img src=%s/9>
<image href=%s/10>
<svg><image href=%s/11 /></svg>
<svg><use href='%s/12#x'/></svg>
<table background=%s/13>
<body onload=fetch('%s/14')>""".splitlines(),
]
WRAPS = ("%s", "a %s b", "**%s**", "`%s`", '"%s"')

SPY = """(() => {
  const address = %s, real = window.fetch;
  window.fetch = (...given) => {
    if (String(given[0]).startsWith(address)) noted(`ran ${given[0]}`);
    return real(...given);
  };
  document.addEventListener('securitypolicyviolation', event => {
    if (event.blockedURI.startsWith(address)) noted(`${event.effectiveDirective} ${event.blockedURI}`);
  });
})()"""
PROOF = "address => document.body.insertAdjacentHTML('beforeend', `<img src=${address}/proof onerror=this.remove()>`)"
FOREIGN = """address => [...document.querySelectorAll('form, iframe, base, object, embed, [onerror], [onload]')]
    .map(e => e.outerHTML.slice(0, 300)).filter(html => html.includes(address))"""
SEEN = """([tab, text]) => document.querySelector('[role=tab][aria-selected=true]').textContent.trim() === tab
    && [...document.querySelectorAll('[role=tabpanel]')].some(p => p.offsetParent && p.innerText.includes(text))"""
TABS = ("Models", "Monitor", "Runs", "Evaluate", "Compare", "Inspect", "Settings", "Quantize")
LISTS = {"Compare": "#model-left", "Evaluate": "#eval-model", "Inspect": "#inspect-picker"}


@dataclass(frozen=True)
class Told:
    """One text, and what brings it: a run, a model folder, a recipe file."""

    text: str
    run: Run
    folder: Path
    recipe: Path


def corpus(address: str, count: int) -> list[str]:
    """So many of 200 texts."""
    texts = [wrap % leak.replace("%s", address) for wrap in WRAPS for leak in LEAKS][:200]
    return texts[:: max(1, len(texts) // count)]


def file_name(text: str) -> str:
    return text.replace("/", "∕")[:60].strip()


def tell(home: Path, number: int, text: str) -> Told:
    folder = home / "models" / f"{number} {file_name(text)}"
    folder.mkdir(parents=True)
    config = {"model_type": text, "architectures": [text], "auto_map": {"AutoModel": text}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "README.md").write_text(f"---\nlicense: {text}\n---\n# {text}\n", encoding="utf-8")
    recipes = ({"recipe": {"method": text}}, {text: text}, {"calibration": {"source": text}}, text)
    file = home / "recipes" / f"{number} {file_name(text)}.json"
    file.parent.mkdir(exist_ok=True)
    recipe = recipes[number % 4]
    file.write_text(json.dumps({"quip_recipe": 1, **recipe} if isinstance(recipe, dict) else recipe), encoding="utf-8")
    return Told(text, tell_run(home, text, folder, done=bool(number % 2)), folder, file)


def tell_run(home: Path, text: str, folder: Path, *, done: bool) -> Run:
    """A run, every text of which is ``text``: one that failed, or one that is done."""
    store = Store(home)
    run = store.create(JobConfig(f"/models/{text}", str(folder)))
    names = [{"name": f"model.layers.0.{text}", "block": 0, "projection": text, "shape": [8, 8]}]
    recipe = {"method": "quip#", "bits": 2, **{part: {"name": text} for part in ("transform", "codebook", "rounding")}}
    text_of = {"source": text, "samples": 1, "seqlen": 1, "windows": [1, 1]}
    values = {"model": f"/models/{text}", "architecture": text, "recipe": recipe, "calibration": text_of, "blocks": 1}
    error = {"message": text, "hint": text, "details": text}
    ended = events.RunFinished(str(folder), text, 2, 2.0, 1, 1.0, 1.0, 0.01)
    log = EventLog(run.directory)
    log.append(events.RunStarted(**values, layers=names, output_bytes=1, seed=0, device="cpu"))
    log.append(events.Warned(code="DEFECT", message=text))
    log.append(ended if done else events.RunFailed(code="DEFECT", **error))
    log.close()
    outcome = {"result": events.to_json(ended)} if done else {"error": {"error": "DEFECT", **error}}
    store.update(run.id, status="done" if done else "failed", started=1.0, finished=2.0, **outcome)
    store.describe(run.id, name=text[:80], note=text, tags=[text[:30]])
    return store.get(run.id)


class Stage:
    """The page on which the texts are shown."""

    def __init__(self, server: Server, context: sync_api.BrowserContext, recorder: Recorder) -> None:
        self.server, self.recorder = server, recorder
        self.address = f"http://127.0.0.1:{recorder.server_port}"
        self.noted: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(300_000)  # a busy machine
        self.page.expose_function("noted", self.note)
        self.page.add_init_script(SPY % json.dumps(self.address))
        ours = (server.url, "data:", "blob:", "file:")
        self.page.on("request", lambda r: None if r.url.startswith(ours) else self.note(f"asked {r.url}"))
        self.page.on("dialog", lambda d: (self.note("a dialog"), d.dismiss()))

    def note(self, what: str) -> None:
        self.noted.append(what)

    def found(self) -> list[str]:
        """What was noted since the last time, and what leads elsewhere now."""
        found = [*self.noted, *(f"arrived {path}" for path in self.recorder.asked)]
        self.noted.clear()
        self.recorder.asked.clear()
        return found + self.page.evaluate(FOREIGN, self.address)

    def opened(self) -> bool:
        """The page is there, and a picture from elsewhere would be noted."""
        self.page.goto(self.server.url)
        self.page.wait_for_selector("#demo")
        self.found()
        self.page.evaluate(PROOF, self.address)
        self.page.wait_for_timeout(500)
        return bool(self.found())

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def changes(self, selector: str, act: Callable[[], object]) -> None:
        """Do something and wait for what it changes; the answer may be that of the time before."""
        shown = "where => document.querySelector(where)?.innerHTML"
        before = self.page.evaluate(shown, selector)
        act()
        with suppress(sync_api.TimeoutError):
            arg = [selector, before]
            self.page.wait_for_function(f"([where, before]) => ({shown})(where) !== before", arg=arg, timeout=10_000)

    def seen(self, tab: str, text: str) -> None:
        self.page.wait_for_function(SEEN, arg=[tab, text])


def checked(stage: Stage, told: Told) -> None:
    """As the name and as the folder of a model."""
    for line in (told.text.replace("\n", " "), str(told.folder)):
        stage.page.locator("#other-model input").fill(line)
        stage.changes("#verdict", lambda: stage.page.click("#check"))


def asked(stage: Stage, told: Told) -> None:
    """As a prompt; both models answer."""
    prompt = stage.page.locator("#prompt textarea")
    prompt.fill(told.text)
    prompt.press("Enter")
    stage.page.wait_for_timeout(300)
    stage.page.locator("#send:not([disabled])").wait_for()


def looked_at(stage: Stage, told: Told) -> None:
    """As everything that a run says, on its card and in the Monitor."""
    stage.tab("Runs")
    name = told.run.id.replace("-", " ")
    stage.page.click(f"[data-action='select:{told.run.id}']")
    stage.page.locator("#run-card", has_text=f"{name} ·").wait_for()
    stage.page.click("#run-open")
    stage.seen("Monitor", f"{name} ·")


def loaded(stage: Stage, told: Told) -> None:
    """As what a recipe file says, and as its name."""
    with stage.page.expect_file_chooser() as chooser:
        stage.page.click("#load-recipe")
    stage.changes("#tab-quantize", lambda: chooser.value.set_files(told.recipe))


PLACES = {"Models": checked, "Compare": asked, "Runs": looked_at, "Quantize": loaded}


def shown_texts(server: Server, context: sync_api.BrowserContext, recorder: Recorder, count: int) -> Row:
    row = Row("S8", "0 executed, 0 requests to elsewhere, 0 foreign form, frame or base")
    stage, home = Stage(server, context, recorder), server.home
    texts = [tell(home, number, text) for number, text in enumerate(corpus(stage.address, count))]
    tell_finished(home, *(tiny_model(home / "tiny" / name) for name in ("big", "small")))  # to chat with
    if not stage.opened():
        row.problems.append("the spy notes nothing")
    for tab in TABS:
        stage.tab(tab)
        if tab in LISTS:
            stage.page.locator(f"{LISTS[tab]} input").first.click()
        stage.page.wait_for_timeout(1500)
        row.problems += [f"{tab}: {found}" for found in stage.found()]
    for tab, place in PLACES.items():
        stage.tab(tab)
        for told in texts:
            place(stage, told)
            row.problems += [f"{tab} {told.text!r}: {found}" for found in stage.found()]
    shown = len(texts) * (len(TABS) + len(PLACES) + 2) + reports(stage, texts[::10], row)
    stage.page.close()
    where = "a run, a model folder and a recipe file each, names, prompts, reports"
    return row.close(f"{len(texts)} texts ({where}): {shown} showings, {len(row.problems)} problems")


def reports(stage: Stage, texts: list[Told], row: Row) -> int:
    """The files that keep a run, opened from the disk."""
    file = stage.server.home / "report.html"
    for told in texts:
        file.write_text(report(read_view(told.run), None, plotly=""), encoding="utf-8")
        stage.page.goto(file.as_uri())
        stage.page.wait_for_timeout(200)
        row.problems += [f"report {told.text!r}: {found}" for found in stage.found()]
    return len(texts)
