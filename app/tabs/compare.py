"""Compare: one prompt to the original and to quantized models, and where and how far they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from app import widgets as w
from app.answers import answer, head
from app.compare_desk import AT_ONCE, AUTOMATIC, IN_TURN, PRODUCTS, Desk
from app.compare_views import PLOTTED, SIDES, run_name
from app.library import DEMO
from app.live_plot import live_plot
from app.page import Moment, Page
from app.room import Room
from app.views import model_name
from quip_engine.generate import GenerationSettings
from quip_engine.runs import Run

SUGGESTIONS = ("The old house stood at the end of the lane, and", "“I do not know what you mean,” said the captain,")
ESCAPE_STOPS = """<script>
document.addEventListener('keydown', event => {
  const stop = document.querySelector('#stop-answers');
  if (event.key === 'Escape' && stop && stop.offsetParent && !stop.disabled) stop.click();
});
</script>"""
FOCUS = "(...given) => { document.querySelector('#prompt textarea').focus(); return given; }"
TEMPERATURE = 0.5  # small models repeat themselves at 0; the same random numbers keep the comparison fair
FORM: tuple[str, ...] = ("prompt", "system", *SIDES, "blind", "order", "measured")
FORM += ("temperature", "top_p", "top_k", "seed", "max_tokens", "activations")


def build(page: Page) -> dict[str, Any]:
    text = "Once a run is finished, the original and its small version answer the same prompt here, side by side."
    action = w.button("Set up a run", "Quantize", "primary")
    parts: dict[str, Any] = {"nothing": w.html(w.empty("Nothing to compare yet", text, action), js_on_load=w.ACTIONS)}
    with gr.Column(visible=False) as parts["body"]:
        parts["problem"] = w.html(visible=False)
        with gr.Row(elem_classes="sides"):
            _side(parts, "left", "Left model", False)
            _side(parts, "right", "Right model", True)
            _side(parts, "third", "Third model", True)
        with gr.Column(elem_classes="card", elem_id="ask"):
            _ask_bar(parts)
        with gr.Column(elem_classes="card", visible=False, elem_id="ballot") as parts["ballot"]:
            _ballot(parts)
        for part in PLOTTED:
            _reading(parts, part)
        _folded(parts)
    parts["room"] = gr.State(Room())
    _wire(Desk(page.studio), parts)
    return {name: parts[name] for name in ("nothing", "body", *SIDES)}


def _side(parts: dict[str, Any], name: str, label: str, quantized: bool) -> None:
    with gr.Column(elem_classes="card side", min_width=300, visible=name != "third") as parts[f"{name}_side"]:
        with gr.Row(elem_classes="bar"):
            parts[f"{name}_head"] = w.html(head(quantized, 0))
            parts[name] = w.Dropdown(
                [], show_label=False, container=False, min_width=220, scale=0, label=label, allow_custom_value=True,
                elem_id=f"model-{name}",
            )  # fmt: skip
            if name == "third":
                parts["remove"] = gr.Button("Remove", size="sm", elem_classes="quiet", elem_id="remove-third")
        parts[f"{name}_past"] = w.html(elem_id=f"past-{name}")
        parts[f"{name}_answer"] = w.html(answer(Room(), 0), elem_id=f"answer-{name}")


def _ask_bar(parts: dict[str, Any]) -> None:
    with gr.Row(elem_classes="bar"):
        parts["prompt"] = w.Line(
            show_label=False, container=False, max_lines=6, elem_id="prompt", label="Prompt",
            placeholder="Give all models the same words. Enter sends, Shift-Enter breaks the line, Esc stops.",
        )  # fmt: skip
        parts["send"] = gr.Button("Send", variant="primary", size="md", elem_id="send")
        parts["stop"] = gr.Button("Stop", variant="stop", size="md", interactive=False, elem_id="stop-answers")
    with gr.Row(elem_classes="bar suggestions") as parts["suggestions"]:
        for text in SUGGESTIONS:
            chip = gr.Button(text, size="sm", elem_classes="quiet")
            chip.click(lambda value=text: value, None, parts["prompt"], **w.LATEST)
    parts["hint"] = w.html(visible=False)
    parts["memory"] = w.html(elem_id="talk-fits")
    with gr.Row(elem_classes="bar tools"):
        back = {"again": "Regenerate", "edit": "Edit the last prompt", "clear": "Clear"}
        for name, text in {**back, "markdown": "Save as Markdown", "json": "Save as JSON"}.items():
            parts[name] = gr.Button(text, size="sm", elem_classes="quiet", elem_id=f"talk-{name}", interactive=False)
        parts["add"] = gr.Button("Add a third model", size="sm", elem_classes="quiet", elem_id="add-third")
        parts["blind"] = w.Checkbox(False, label="Blind vote", elem_id="blind", container=False, min_width=120)


def _ballot(parts: dict[str, Any]) -> None:
    parts["ballot_text"] = w.html()
    with gr.Row(elem_classes="bar votes"):
        names = {"left": "Left is better", "middle": "Middle is better", "equal": "Equal", "right": "Right is better"}
        for name, text in names.items():
            parts[f"vote_{name}"] = gr.Button(text, size="md", interactive=False, elem_id=f"vote-{name}")
    parts["score"] = w.html(elem_id="score")


def _reading(parts: dict[str, Any], part: str) -> None:
    with gr.Column(elem_classes="card reading"):  # style.css hides it while it has no heading
        parts[f"{part}_title"] = w.html(elem_id=f"agreement-{part}")
        legend = w.legend(("dot", "would say the same word"), ("error", "would say the word written there"))
        note = "KL divergence of its next-token prediction from the first model's, along the first model's answer."
        parts[part] = live_plot("Token by token", note, legend=legend, height=220, elem_id=f"plot-{part}")
        parts[f"{part}_table"] = w.html(elem_id=f"differences-{part}")


def _folded(parts: dict[str, Any]) -> None:
    with gr.Accordion("System prompt", open=False, elem_classes="card"):
        parts["system"] = gr.Textbox(
            "", show_label=False, container=False, lines=2, max_lines=8, interactive=True, elem_id="system",
            label="System prompt", placeholder="What all models are told before the conversation. Empty: nothing.",
        )  # fmt: skip
    with gr.Accordion("What the models really read", open=False, elem_classes="card") as parts["reading"]:
        parts["refresh"] = gr.Button("Show it for what is typed now", size="sm", elem_id="show-read")
        parts["reads"] = w.html(elem_id="reads")
    with gr.Accordion("Sampling and memory: the same for all", open=False, elem_classes="card"):
        with gr.Row():
            _sampling(parts)
        with gr.Row():
            info = "One after the other, each is loaded alone."
            parts["order"] = w.Radio(
                [AUTOMATIC, AT_ONCE, IN_TURN], value=AUTOMATIC, label="Answer at once", info=info,
                elem_classes="segmented", elem_id="order",
            )  # fmt: skip
            info = "After the answers, each model reads the first one. Takes about as long as reading a prompt."
            parts["measured"] = w.Checkbox(True, label="Measure agreement", info=info, elem_id="measured")


def _sampling(parts: dict[str, Any]) -> None:
    usual = GenerationSettings()
    fields = {
        "temperature": (TEMPERATURE, "Temperature", "0 always takes the likeliest token."),
        "top_p": (usual.top_p, "Top p", "1 keeps every token."),
        "top_k": (usual.top_k, "Top k", "0 keeps every token."),
        "seed": (usual.seed, "Seed", "The same draws for all."),
        "max_tokens": (usual.max_tokens, "Longest answer", "In tokens."),
    }
    for name, (value, label, info) in fields.items():
        parts[name] = w.Number(value, label=label, info=info, min_width=120, elem_id=f"talk-{name}")
    info = "8-bit is quicker, 0.4 % off."
    names = list(PRODUCTS)
    parts["activations"] = w.Dropdown(names, value=names[0], label="Packed layers multiply", info=info, min_width=200)


# -- events ------------------------------------------------------------------------------------------------------------


def _wire(desk: Desk, parts: dict[str, Any]) -> None:
    room, form = parts["room"], [parts[name] for name in FORM]
    shown = [part for name, part in parts.items() if name not in ("nothing", "body", "room", "reading", "refresh")]

    def give(handler: Callable[..., dict[str, Any]]) -> Callable[..., dict[Any, Any]]:
        def run(*given: Any) -> dict[Any, Any]:
            return {parts[name]: value for name, value in handler(*given).items()} or {parts["hint"]: gr.skip()}

        return run

    def stream(handler: Callable[..., Iterator[dict[str, Any]]]) -> Callable[..., Iterator[dict[Any, Any]]]:
        def run(*given: Any) -> Iterator[dict[Any, Any]]:
            yield {parts["hint"]: gr.skip()}  # Gradio empties all outputs of a generator that gives nothing
            for values in handler(*given):
                yield {parts[name]: value for name, value in values.items()}

        return run

    asked = [room, *form]
    for triggers, handler in (
        ([parts["send"].click, parts["prompt"].submit], desk.ask),
        ([parts["again"].click], desk.again),
    ):
        gr.on(triggers, stream(handler), asked, shown, concurrency_limit=None, **w.PRIVATE)
    parts["stop"].click(desk.stop, room, None, queue=False, **w.PRIVATE)
    for name, back in (("edit", desk.edit), ("clear", desk.clear)):
        gone = parts[name].click(give(back), room, shown, **w.PRIVATE)
        gone.then(give(desk.forecast), asked, shown, js=FOCUS, **w.PRIVATE)
    parts["right"].input(desk.original_of, parts["right"], parts["left"], **w.LATEST)
    changed = [parts[name].change for name in (*SIDES, "order", "max_tokens")]
    settled = gr.on(changed, None, None, None, js=w.SETTLED, **w.PRIVATE)
    settled.then(give(desk.forecast), asked, shown, **w.LATEST)
    gr.on([parts["reading"].expand, parts["refresh"].click], give(desk.read), asked, parts["reads"], **w.LATEST)
    parts["add"].click(give(lambda r, right: desk.third(r, True, right)), [room, parts["right"]], shown, **w.PRIVATE)
    parts["remove"].click(give(lambda r: desk.third(r, False, "")), room, shown, **w.PRIVATE)
    parts["blind"].input(give(desk.blinded), [room, parts["blind"]], shown, **w.LATEST)
    _wire_votes(desk, parts, give, shown)


def _wire_votes(desk: Desk, parts: dict[str, Any], give: Any, shown: list[Any]) -> None:
    room = parts["room"]
    for name in ("left", "middle", "right", "equal"):
        parts[f"vote_{name}"].click(give(lambda r, name=name: desk.vote(r, name)), room, shown, **w.PRIVATE)
    for name, kind in (("markdown", "md"), ("json", "json")):
        carrier = gr.JSON(visible=False)
        written = parts[name].click(lambda r, kind=kind: desk.kept(r, kind), room, carrier, **w.PRIVATE)
        written.then(None, carrier, None, js=w.DOWNLOAD, **w.PRIVATE)


def connect(page: Page) -> None:
    page.built["Compare"]["nothing"].click(w.follow, None, page.tabs, **w.PRIVATE)


def show(moment: Moment) -> dict[str, Any]:
    """The choices: the newest run and its original come first."""
    finished = moment.studio.follower.finished()
    if not finished:
        return {"nothing": gr.update(visible=True), "body": gr.update(visible=False)}
    originals = {run.job.model: model_name(run) for run in finished}
    originals.setdefault(str(DEMO), DEMO.name)
    several = len(originals) > 1
    runs = [(_label(run, several), run.id) for run in finished]
    choices = [*((f"{name} · original", model) for model, name in originals.items()), *runs]
    return {
        "nothing": gr.update(visible=False),
        "body": gr.update(visible=True),
        "left": gr.update(choices=choices, value=finished[0].job.model),
        "right": gr.update(choices=choices, value=finished[0].id),
        "third": gr.update(choices=choices),
    }


def _label(run: Run, with_model: bool) -> str:
    name = run_name(run).replace(", ", " · ")
    return f"{model_name(run)} · {name}" if with_model else name
