"""A run as one HTML file that needs nothing else: facts, figures that can be zoomed, every layer, notes, evaluation.

    python -m app.report RUN [-o FILE]

The figures are those of the Monitor, drawn by the same script; Plotly is written into the file, so it opens anywhere,
offline, in light or dark as the reader's system is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

from app import layer_table, live_plot, shelf, theme, views
from app import widgets as w
from app.evaluations import Evaluations
from app.figures.base import Figure
from app.fmt import clock
from app.forms import command
from app.live_plot import PLOTLY_DIR, dumps
from app.results import Result, results
from app.state import RunView, read_view
from quip_engine import __version__, events
from quip_engine.errors import QuipError
from quip_engine.files import data_home, write_bytes
from quip_engine.runs import Store

STYLE = Path(__file__).parent / "style.css"
PLOTLY_HERE = "/*plotly*/"  # where Plotly goes, when a page adds it by itself
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
style-src 'unsafe-inline'; img-src data: blob:">
<title>$title</title>
<style>$tokens
* { box-sizing: border-box; } body { margin: 0; background: var(--bg); font: 14px/1.5 var(--sans); }
main { display: flex; flex-direction: column; gap: 16px; max-width: 1120px; margin: 0 auto;
  padding: 24px var(--gutter); }
figure { margin: 0; }
.two { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.facts dd { text-align: left !important; } .facts { max-width: 760px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
$style</style></head>
<body class="gradio-container"><main>$body</main>
<script>$plotly</script>
<script>
window.quipDrawAll = true;                                // a file may be printed
const dark = matchMedia('(prefers-color-scheme: dark)');
const mode = () => document.body.classList.toggle('dark', dark.matches);
mode();
dark.addEventListener('change', mode);
$script
const figures = $figures;
for (const [name, value] of Object.entries(figures))
  quipPlot(document.getElementById(name), {value}, () => {}, () => {});
</script></body></html>
""")


def report(view: RunView, result: Result | None, *, plotly: str) -> str:
    """The whole file. ``plotly``: the text of plotly.min.js; empty leaves ``PLOTLY_HERE`` in its place."""
    drawn = _figures(view)
    return PAGE.substitute(
        title=w.safe(f"{shelf.label(view.run)}: {views.model_name(view.run)}"),
        tokens=theme.css_tokens(),
        style=STYLE.read_text(encoding="utf-8"),
        body=_body(view, result, list(drawn)),
        plotly=plotly or PLOTLY_HERE,
        script=live_plot.SCRIPT,
        figures=dumps(drawn).replace("</", "<\\/"),
    )


TITLES = {
    "loss": ("Proxy loss", "How much of each layer's output is lost, on a log scale.", 320),
    "tiles": ("Block map", "The same loss, one tile a layer.", 340),
    "kl": ("Tuning", "KL to the original on text that the model is not trained on.", 280),
    "bits": ("Who gets the bits", "Bits of each layer, as they were shared out.", 280),
    "mu_w": ("Incoherence of the weights", "Largest weight over the root mean square.", 260),
    "mu_h": ("Incoherence of the inputs", "The same for the directions the inputs take.", 260),
}

ENDS = (("diamond", "before"), ("dot", "after the transform"), ("dash", "what a random rotation promises"))


def _figures(view: RunView) -> dict[str, Figure]:
    return {name: figure for name, figure in views.plots(view, None).items() if figure}


def _body(view: RunView, result: Result | None, drawn: Sequence[str]) -> w.Html:
    run = view.run
    title = w.Html(f"<h1>{w.safe(views.title(view))}</h1>")
    made = f"QuIP Studio {__version__}, {clock(run.finished or run.created)}"
    facts = w.joined([w.heading("Facts", made), w.facts(shelf.facts(run, view, result)), shelf.tags(run)])
    parts = [title, _card(facts)]
    if run.note:
        parts.append(_card(w.joined([w.heading("Note", level=3), w.tag("p", run.note, "run-note")])))
    if trouble := views.trouble(view):
        parts.append(trouble)
    plots = w.joined([_plot(name, *TITLES[name]) for name in drawn])
    parts.append(w.Html(f'<div class="two">{plots}</div>'))
    if result:
        parts.append(_card(_evaluation(result)))
    parts += [_card(_layers(view)), _card(_recipe(view))]
    return w.joined(parts)


def _card(content: w.Html) -> w.Html:
    return w.Html(f'<section class="card">{content}</section>')


def _plot(name: str, title: str, note: str, height: int) -> w.Html:
    ends = ENDS if name.startswith("mu") else ()
    markup = live_plot.TEMPLATE.substitute(title=title, note=note, legend=w.legend(*ends), height=height)
    return w.Html(f'<div id="{name}">{markup}</div>')


def _evaluation(result: Result) -> w.Html:
    where = f"{result.text}, {result.windows} windows of {result.seqlen} tokens, as in the QuIP papers."
    rows = [[name, value] for name, value in shelf.measured_rows(result)]
    table = w.table([("Figure", "text"), ("Value", "num")], rows, "Evaluation")
    return w.joined([w.heading("Evaluation", where, 3), table])


def _layers(view: RunView) -> w.Html:
    skipped = {event.name: event.reason for _, event in view.log if isinstance(event, events.LayerSkipped)}
    kept = (
        w.joined([w.heading("Kept in original precision", level=3), w.facts(list(skipped.items()))])
        if skipped
        else w.Html("")
    )
    note = f"{len(view.layers)} of {view.total or len(view.layers)}, latest first."
    return w.joined([w.heading("Layers", note, 3), layer_table.table(view, None, True), kept])


def _recipe(view: RunView) -> w.Html:
    job = json.dumps(view.run.job.to_json(), indent=2, ensure_ascii=False)
    again = w.joined([w.heading("Again", "The command that does the same.", 3), w.tag("pre", command(view.run.job))])
    return w.joined([again, w.heading("Recipe", "Everything that was asked for.", 3), w.tag("pre", job)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a run. Exit status 2 where there is no such run."""
    parser = argparse.ArgumentParser(prog="python -m app.report", description="One HTML file that tells a run.")
    parser.add_argument("run", metavar="RUN", help="as listed by `python -m quip_engine runs`")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="(default: RUN-report.html)")
    options = parser.parse_args(arguments)
    try:
        run = Store().get(options.run)
        found = shelf.measured(results(Evaluations(data_home()).rows, Store().list()))
        plotly = (PLOTLY_DIR / "plotly.min.js").read_text(encoding="utf-8")
        out = options.out or Path(f"{run.id}-report.html")
        write_bytes(out, report(read_view(run), found.get(run.id), plotly=plotly).encode())
    except QuipError as error:
        print(f"{error.message} {error.hint} ({error.code})", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
