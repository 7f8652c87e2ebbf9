"""A Plotly chart that can be updated every second without losing zoom, hover or focus.

``gr.Plot`` rebuilds its element at every update. This component keeps one element for its whole life: the template
never mentions ``${value}``, so a new value only wakes the script below, which calls ``Plotly.react``.

The value is the JSON of a figure (see figures/): ``{"data": [...], "layout": {...}, "summary": str, "run": str}``.
Conventions that keep updates small and free of colour choices:

- a string that starts with ``--`` is a CSS variable, looked up again when the mode changes;
- ``{"packed": base64, "low": a, "step": s, "log": bool}`` is a series of 16-bit numbers, v = a + s * code, or 10^v;
  the code 65535 is a gap. With ``"columns"`` it is a matrix, row by row;
- ``{"lanes": [names], "blocks": n, "gap": g}`` spells "block · name" for each place of a lane axis (figures/base.py);
  the same as ``lanes`` of the layout makes that axis, the names above it and the lines between;
- ``{"stems": [i, j]}`` joins the points of traces i and j by vertical lines;
- ``{"bytes": base64, "step": s, "columns": n}`` is a matrix of 8-bit numbers, v = s * code;
- ``{"powers": trace}`` writes the cells of a heat map of log10 values as the numbers themselves;
- the common layout (fonts, grids, margins) lives here and is merged with what the figure sends;
- ``narrow`` beside ``layout`` is merged with it on a phone, and gives the ``height`` there; ``foot`` is the text below;
- a click on a point is a Gradio event that carries as ``action`` what the point has as customdata, else "y · x".
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

import gradio as gr
import plotly

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
  <div class="plot" role="img" aria-label="$title" style="height:${height}px"></div>
  <p class="plot-foot"></p>
</figure>
""")

SCRIPT = (Path(__file__).parent / "live_plot.js").read_text(encoding="utf-8")


def dumps(figure: dict[str, Any]) -> str:
    """Compact JSON, the value of a live plot."""
    return json.dumps(figure, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def live_plot(title: str, note: str = "", *, legend: str = "", height: int = 300, **kwargs: Any) -> gr.HTML:
    """A card with a title, a legend in HTML and the chart. Update it by returning ``dumps(figure)``.

    The texts are written into the template here, not passed as ``gr.HTML`` props: props are lost when a plot is first
    mounted inside a container that an event makes visible ("title is not defined").
    """
    template = TEMPLATE.substitute(title=title, note=note, legend=legend, height=height)
    return gr.HTML("", html_template=template, js_on_load=SCRIPT, apply_default_css=False, **kwargs)


def head() -> str:
    """The script tag every page needs; the folder must be passed to ``gr.set_static_paths``."""
    return f'<script src="/gradio_api/file={(PLOTLY_DIR / "plotly.min.js").as_posix()}"></script>'
