"""A Plotly chart that can be updated every second without losing zoom, hover or focus.

``gr.Plot`` rebuilds its element at every update. This component keeps one element for its whole life: the template
never mentions ``${value}``, so a new value only wakes the script. Where it only adds points (``packed`` series with
fewer gaps than before), these are laid upon the chart (live_marks.js), and Plotly draws all of it anew when they have
become many: a chart of n points that come one by one is drawn O(log n) times.

The value is a figure (see figures/): ``{"data": [...], "layout": {...}, "summary": str, "run": str}``, as JSON text
where Gradio brings it.
Conventions that keep updates small and free of colour choices:

- a string that starts with ``--`` is a CSS variable, looked up again when the mode changes;
- ``{"packed": base64, "low": a, "step": s, "log": bool}`` is a series of 16-bit numbers, v = a + s * code, or 10^v;
  the code 65535 is a gap. With ``"columns"`` it is a matrix, row by row;
- ``{"lanes": [names], "blocks": n, "gap": g}`` spells "block · name" for each place of a lane axis (figures/base.py);
  the same as ``lanes`` of the layout makes that axis, the names above it and the lines between;
- ``{"stems": [i, j]}`` joins the points of traces i and j by vertical lines;
- ``{"bytes": base64, "step": s, "columns": n}`` is a matrix of 8-bit numbers, v = s * code;
- ``{"powers": trace}`` writes the cells of a heat map of log10 values as the numbers themselves;
- ``{"now": {"ring": [x, y]}}`` beside ``data`` rings a place, ``{"now": {"tile": [column, row], "color": c}}`` frames
  a tile; they move without the chart being drawn;
- the common layout (fonts, grids, margins) lives here and is merged with what the figure sends;
- ``narrow`` beside ``layout`` is merged with it on a phone, and gives the ``height`` there; ``foot`` is the text below;
- a click on a point is a Gradio event that carries as ``action`` what the point has as customdata, else "y · x".
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import gradio as gr
import plotly

from app.live import live

PLOTLY_DIR = Path(plotly.__file__).parent / "package_data"

TEMPLATE = Template("""
<figure class="card plot-card">
  <figcaption>
    <div><h3>$title</h3><p>$note</p></div>
    <div class="plot-tools">
      <button type="button" data-tool="reset" hidden>Reset zoom</button>
      <button type="button" data-tool="png" aria-label="Download the plot $title as PNG">PNG</button>
    </div>
  </figcaption>
  <div class="plot-legend">$legend</div>
  <div class="plot-area">
    <div class="plot" role="img" aria-label="$title" style="height:${height}px"></div>
    <svg class="marks" aria-hidden="true"></svg>
  </div>
  <p class="plot-foot"></p>
</figure>
""")

SCRIPT = "".join(Path(__file__).with_name(f"{name}.js").read_text("utf-8") for name in ("live_marks", "live_plot"))


def dumps(figure: dict[str, Any]) -> str:
    """Compact JSON, the value of a live plot."""
    return json.dumps(figure, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def live_plot(
    title: str, note: str = "", *, legend: str = "", height: int = 300, clocked: bool = False, **kwargs: Any
) -> gr.HTML:
    """A card with a title, a legend in HTML and the chart. An event updates it by returning ``dumps(figure)``; where
    it is ``clocked``, the tab's ``show`` does, by the figure itself (live.py); ``{}`` empties it.

    The texts are written into the template here, not passed as ``gr.HTML`` props: props are lost when a plot is first
    mounted inside a container that an event makes visible ("title is not defined").
    """
    template = TEMPLATE.substitute(title=title, note=note, legend=legend, height=height)
    script = "quipPlot(element, props, watch, trigger);  // triggers 'click'"
    kind = live if clocked else partial(gr.HTML, "", apply_default_css=False)
    return kind(html_template=template, js_on_load=script, **kwargs)


def head() -> str:
    """The scripts every page needs; the folder must be passed to ``gr.set_static_paths``."""
    plotly = f"/gradio_api/file={(PLOTLY_DIR / 'plotly.min.js').as_posix()}"
    return f"<script>const quipPlotlyAt = {json.dumps(plotly)};{SCRIPT}</script>"
