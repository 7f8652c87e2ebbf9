"""R9, R10: the server dies and comes back, visitors come, go and reload; the run does not notice, the page shows it.

    python tests/soak/visitors.py [--fast]       (QUIP_CHROMIUM names the browser)

R9: the server is killed and told to end by turns while a run is at work. Two pages must show the layer it is at: the
one that was open all the time, whose words are wiped out meanwhile, and one that is opened anew. R10: all pages are
closed and one opened, it is reloaded, a second and a third are opened. Every run is asked for twice by every open page
at once. At any time there is one worker, the same one; each run ends by itself, and all to the same bits.
"""

from __future__ import annotations

import json
import math
import signal
import time
from itertools import cycle, islice
from pathlib import Path

from browser import chromium
from helpers import tiny_model
from playwright import sync_api
from soak import Row, Server, arguments, report, workers

from quip_engine import runs
from quip_engine.files import sha256
from quip_engine.runs import Run, Store

AFTER_RESTART, AFTER_VISIT = 5.0, 3.0  # most seconds until a page shows the run as it is
BUSY = 60.0  # the same in the test suite, whose machine may do anything else meanwhile
BLOCKS, LAST = 40, 140  # of seven layers each, for a run of minutes; one that has finished more could end meanwhile
SHOWN = """known => {
  const text = document.querySelector('#first-word, #job')?.textContent || '', layer = text.match(/layer (\\d+) of/);
  return known ? layer && layer[1] >= known : text.includes('Running');
}"""
# What a page says first is painted before Gradio's code keeps it from answering: when, and of which layer.
KEEP = """new MutationObserver((_, observer) => {
  const word = document.querySelector('#first-word');
  if (!word) return;
  window.firstWord = word.textContent;
  observer.disconnect();
}).observe(document, {childList: true, subtree: true});"""
PAINTED = """() => {
  const [paint] = performance.getEntriesByName('first-contentful-paint');
  const layer = (window.firstWord || '').match(/layer (\\d+) of/);
  return [(performance.timeOrigin + (paint ? paint.startTime : 0)) / 1000, layer ? Number(layer[1]) : -1];
}"""
WIPE = "() => { document.querySelector('#job .what').textContent = ''; }"
START = """data => {
  const call = {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({data})};
  for (let k = 0; k < 2; k++) fetch('/gradio_api/call/start_run', call);
}"""


class Watch:
    """A studio, the pages that are open, the run at work, and what must stay true of it."""

    def __init__(self, server: Server, context: sync_api.BrowserContext) -> None:
        self.server, self.context, self.store = server, context, Store(server.home)
        self.before, self.begun, self.worker = len(self.store.list()), 0, 0
        self.pages = [self.opened()]
        model = tiny_model(server.home / "deep", num_hidden_layers=BLOCKS, hidden_size=256, intermediate_size=768)
        self.asked = [str(model), "quip#", 2.0, "", "bundled", 8, 32, 0, None]

    def opened(self) -> sync_api.Page:
        """Another page, not waited for."""
        page = self.context.new_page()
        page.add_init_script(KEEP)
        page.goto(self.server.url, wait_until="commit")
        return page

    def shown(self, page: sync_api.Page, done: int, since: float) -> float:
        """Seconds until a page shows that so many layers are done."""
        page.wait_for_function(SHOWN, arg=done, timeout=120_000)
        now = time.monotonic()
        painted, layer = page.evaluate(PAINTED)
        painted -= time.time() - time.monotonic()
        return (painted if layer >= done and painted > since else now) - since

    def done(self) -> int:
        """Layers that the run at work had finished a second ago: a page looks once a second."""
        return told(self.made()[0], "LayerQuantized", time.monotonic() - 1)

    def made(self) -> list[Run]:
        """The runs that were started here, the newest first."""
        return self.store.list()[: len(self.store.list()) - self.before]

    def working(self) -> list[int]:
        """Processes that work on runs."""
        return [p.pid for p in workers(self.server.home) if "quip_engine.runs.worker" in p.info["cmdline"]]

    def at_work(self) -> None:
        """Let a run with enough layers ahead be at work; a new one, asked for by all pages, where there is none."""
        if self.begun and self.done() < LAST:
            return
        self.wait()
        for page in self.pages:
            page.wait_for_selector("#demo", timeout=60_000)
        for page in self.pages:
            page.evaluate(START, self.asked)
        self.begun += 1
        while len(self.made()) < self.begun or not self.working():  # the pages still show the run before
            time.sleep(0.05)
        self.worker = self.working()[0]
        self.shown(self.pages[0], 0, 0.0)

    def wait(self) -> None:
        """Until nothing is at work, nor a worker on its way out."""
        while runs.active(self.server.home) or self.working():
            time.sleep(0.2)

    def wrong(self) -> list[str]:
        """What is not as it must be while a run is at work."""
        working, made = self.working(), len(self.made())
        found = [] if working == [self.worker] else [f"workers {working} in place of {self.worker}"]
        return found if made == self.begun else [*found, f"{made} runs in place of {self.begun}"]

    def results(self) -> list[str]:
        """What is wrong with the runs in the end: all must be done, at one go, with the same bits."""
        self.wait()
        made = self.made()
        found = [f"{run.id} is {run.status}: {run.error}" for run in made if run.status != "done"]
        found += [f"{run.id} began anew" for run in made if told(run, "RunStarted") != 1]
        digests = {tuple(map(sha256, sorted(Path(run.job.out).glob("*.safetensors")))) for run in made}
        return found if len(digests) == 1 else [*found, f"{len(digests)} different results"]


def told(run: Run, kind: str, until: float = math.inf) -> int:
    """How many events of a kind a run has told of, until a time of the clock that does not jump."""
    log = run.directory / "events.jsonl"  # written by a worker that has begun
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    events = map(json.loads, lines)
    return sum(event["type"] == kind and event["tick"] <= until for event in events)


def restarts(watch: Watch, rounds: int, most: float = AFTER_RESTART) -> Row:
    row, times = Row("R9", f"worker and page outlive the server; shown again in {most:g} s; one worker"), []
    for number in islice(cycle((signal.SIGKILL, signal.SIGTERM)), rounds):
        watch.at_work()
        watch.pages[0].wait_for_selector("#job .what")  # a page whose server came back may load itself anew
        watch.server.end(number)
        watch.pages[0].evaluate(WIPE)
        watch.server.begin()
        answers, done = time.monotonic(), watch.done()
        new = watch.opened()
        times += [watch.shown(page, done, answers) for page in (new, watch.pages[0])]
        new.close()
        row.problems += [f"after {number.name}: {what}" for what in watch.wrong()]
    row.problems += [f"shown again after {seconds:.1f} s" for seconds in times if seconds > most]
    return row.close(f"{rounds} restarts in {watch.begun} runs: shown again after {max(times):.1f} s at most")


def closed(watch: Watch) -> None:
    for page in watch.pages:
        page.close()
    watch.pages = [watch.opened()]


def reloaded(watch: Watch) -> None:
    for page in watch.pages:
        page.reload(wait_until="commit")


def another(watch: Watch) -> None:
    watch.pages.append(watch.opened())


def visits(watch: Watch, rounds: int, most: float = AFTER_VISIT) -> Row:
    row, times = Row("R10", f"closed, reloaded, a second and a third page: progress is back in {most:g} s; one run"), []
    for visit in islice(cycle((closed, reloaded, another, another)), rounds):
        watch.at_work()
        begun, done = time.monotonic(), watch.done()
        visit(watch)
        back = [watch.shown(page, done, begun) for page in watch.pages]
        times.append(max(back))
        found = watch.wrong()
        if times[-1] > most:
            found.append("progress back after " + ", ".join(f"{seconds:.2f}" for seconds in back) + " s")
        row.problems += [f"after {visit.__name__}, layer {done}: {what}" for what in found]
    return row.close(f"{rounds} visits in {watch.begun} runs: progress back after {max(times):.1f} s at most")


def come_and_go(server: Server, *, fast: bool) -> list[Row]:
    """Both rows, over the same runs. In the short form the last one is stopped."""
    with chromium(server) as context:
        watch = Watch(server, context)
        rows = [restarts(watch, 1, BUSY), visits(watch, 4, BUSY)] if fast else [restarts(watch, 20), visits(watch, 30)]
        if fast:
            runs.stop(watch.made()[0].id, server.home)
        else:
            rows[1].problems += (wrong := watch.results())
            rows[1].held = rows[1].held and not wrong
    return rows


def main() -> int:
    flags = arguments(__doc__)
    with Server() as server:
        return report(come_and_go(server, fast=flags.fast))


if __name__ == "__main__":
    raise SystemExit(main())
