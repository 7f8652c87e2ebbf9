"""Compare: one prompt to the original and to a quantized model at once, and a mark where they part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from app import widgets as w
from app.answers import CONTINUES, answer_card, answer_cards
from app.chat import Question, answers
from app.forms import whole
from app.page import Moment, Page
from app.state import explain
from app.studio import Studio
from app.views import checkpoint, model_name
from quip_engine.config import ACTIVATIONS
from quip_engine.errors import fail
from quip_engine.generate import GenerationSettings
from quip_engine.runs import Run

SUGGESTIONS = ("The old house stood at the end of the lane, and", "“I do not know what you mean,” said the captain,")
ESCAPE_STOPS = """<script>
document.addEventListener('keydown', event => {
  const stop = document.querySelector('#stop-answers');
  if (event.key === 'Escape' && stop && stop.offsetParent && !stop.disabled) stop.click();
});
</script>"""
TEMPERATURE = 0.5  # small models repeat themselves at 0; the same random numbers keep the comparison fair
PRODUCTS = dict(zip(("floats", "8-bit integers"), ACTIVATIONS, strict=True))
IDLE = [gr.update(interactive=True), gr.update(interactive=False)]  # Send, Stop
BUSY = [gr.update(interactive=False), gr.update(interactive=True)]


def build(page: Page) -> dict[str, Any]:
    text = "Once a run is finished, the original and its small version answer the same prompt here, side by side."
    action = w.button("Set up a run", "Quantize", "primary")
    parts: dict[str, Any] = {"nothing": w.html(w.empty("Nothing to compare yet", text, action), js_on_load=w.ACTIONS)}
    with gr.Column(visible=False) as parts["body"]:
        problem = w.html(visible=False)
        with gr.Row(elem_classes="wide one-one"):
            parts["left"], left = _side("diamond", "Original", "left")
            parts["right"], right = _side("dot", "Quantized", "right")
        with gr.Column(elem_classes="card", elem_id="ask"):
            prompt, send, stop, hint = _ask_bar()
        with gr.Accordion("Sampling: the same for both", open=False, elem_classes="card"), gr.Row():
            sampling = _sampling()
    desk = Desk(page.studio)
    inputs, outputs = [prompt, parts["left"], parts["right"], *sampling], [left, right, problem, hint, send, stop]
    gr.on([send.click, prompt.submit], desk.ask, inputs, outputs, concurrency_limit=None, **w.PRIVATE)
    stop.click(desk.stop, None, None, queue=False, **w.PRIVATE)
    parts["right"].input(desk.original_of, parts["right"], parts["left"], **w.LATEST)
    return parts


class Desk:
    """Who is asking what. One question at a time for each page; another page has its own."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.stops: dict[str, threading.Event] = {}

    def ask(self, request: gr.Request, prompt: str, original: str, run_id: str, *sampling: Any) -> Iterator[list[Any]]:
        """Stream both answers into the page."""
        same = gr.skip()
        yield [same, same, gr.update(visible=False), same, *BUSY]
        page = request.session_hash or ""
        try:
            *numbers, activations = sampling
            question = Question(prompt, settings(*numbers), PRODUCTS.get(activations, activations))
            self.stops[page] = question.stop
            run, source = self._chosen(run_id), self.studio.facts(original or "").path
            same_words = source == self.studio.facts(run.job.model).path
            for left, right in answers(self.studio.bench, (Path(source), checkpoint(run)), question):
                hint = w.note("" if left.templated else CONTINUES)
                yield [*answer_cards(prompt, left, right, same_words), same, hint, same, same]
            yield [same, same, same, same, *IDLE]
        except Exception as error:
            yield [same, same, gr.update(value=w.problem(explain(error)), visible=True), same, *IDLE]
        finally:
            self.stops.pop(page, None)

    def stop(self, request: gr.Request) -> None:
        if event := self.stops.get(request.session_hash or ""):
            event.set()

    def original_of(self, run_id: str) -> str:
        return self._chosen(run_id).job.model

    def _chosen(self, run_id: str) -> Run:
        run = self.studio.follower.store.get(run_id or "")
        if not checkpoint(run).is_dir():
            fail("MODEL_GONE", name=run.name)
        return run


def settings(temperature: Any, top_p: Any, top_k: Any, seed: Any, max_tokens: Any) -> GenerationSettings:
    """Raises ``BAD_SETTING``."""
    return GenerationSettings(whole(max_tokens), temperature, top_p, whole(top_k), whole(seed))


def connect(page: Page) -> None:
    page.built["Compare"]["nothing"].click(w.follow, None, page.tabs, **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """The choices: the newest run and its original come first."""
    finished = moment.studio.follower.finished()
    if not finished:
        return {"nothing": gr.update(visible=True), "body": gr.update(visible=False)}
    originals = {run.job.model: model_name(run) for run in finished}
    runs = [(_label(run, len(originals) > 1), run.id) for run in finished]
    return {
        "nothing": gr.update(visible=False),
        "body": gr.update(visible=True),
        "left": gr.update(choices=[(name, model) for model, name in originals.items()], value=finished[0].job.model),
        "right": gr.update(choices=runs, value=finished[0].id),
    }


def _label(run: Run, with_model: bool) -> str:
    recipe = run.job.recipe
    parts = [f"{recipe.method} {recipe.bits:g}-bit", run.id.replace("-", " ")]
    return " · ".join([model_name(run), *parts] if with_model else parts)


def _side(mark: str, title: str, name: str) -> tuple[Any, Any]:
    with gr.Column(elem_classes="card side", min_width=300):
        with gr.Row(elem_classes="bar"):
            w.html(f'<b class="who"><i class="mark mark-{mark}"></i>{title}</b>')
            choice = w.Dropdown([], show_label=False, container=False, min_width=220, scale=0, label=f"{title} model")
        answer = w.html(answer_card("", None, None, None, ""), elem_id=f"answer-{name}")
    return choice, answer


def _ask_bar() -> tuple[Any, Any, Any, Any]:
    with gr.Row(elem_classes="bar"):
        prompt = w.Line(
            show_label=False,
            container=False,
            max_lines=4,
            elem_id="prompt",
            label="Prompt",
            placeholder="Give both models the same words. Enter sends, Esc stops.",
        )
        send = gr.Button("Send", variant="primary", size="md", elem_id="send")
        stop = gr.Button("Stop", variant="stop", size="md", interactive=False, elem_id="stop-answers")
    hint = w.html()
    with gr.Row(elem_classes="bar suggestions"):
        for text in SUGGESTIONS:
            chip = gr.Button(text, size="sm", elem_classes="quiet")
            chip.click(lambda value=text: value, None, prompt, **w.LATEST)
    return prompt, send, stop, hint


def _sampling() -> list[Any]:
    usual = GenerationSettings()
    fields = [
        (TEMPERATURE, "Temperature", "0 always takes the likeliest token."),
        (usual.top_p, "Top p", "1 keeps every token."),
        (usual.top_k, "Top k", "0 keeps every token."),
        (usual.seed, "Seed", "Both draw with the same random numbers."),
        (usual.max_tokens, "Longest answer", "In tokens."),
    ]
    numbers = [w.Number(value, label=label, info=info, min_width=120) for value, label, info in fields]
    info = "8-bit is quicker on a CPU, and 0.4 % off."
    return [*numbers, w.Dropdown(list(PRODUCTS), label="Packed layers multiply", info=info, min_width=200)]
