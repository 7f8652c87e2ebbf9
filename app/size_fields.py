"""The fields of "Size and tuning": how much the model may take, who gets it, and what is trained afterwards."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import forms, sizing
from app import widgets as w
from app.fields import Form
from app.sizing import BITS, FITS, RULES, SIGNS, SIZE, SIZED
from quip_engine.config import EMBEDDINGS, JobConfig, RecipeConfig
from quip_engine.methods.registry import Preset

STAGE_HELP = {
    "tune progressive": ("Ahead of rounding", "Blocks that wait learn to make up for those that are rounded."),
    "tune block": ("Block by block", "While layers are rounded, the rest of their block learns to make up for them."),
    "tune end-to-end": ("End to end", "Scales, norms and embeddings learn what the original predicts."),
    "tune pv": ("Codes again", "Codes, too, follow what the original predicts (PV-tuning)."),
}
NUMBER_HELP = {
    "tune steps": ("Steps", "0: each window once."),
    "tune samples": ("Tuning samples", "A tenth judges."),
    "tune batch": ("Windows a step", "Seen together."),
    "tune rate": ("Rate", "Of a tensor's size."),
    "tune patience": ("Patience", "Without gain."),
    "tune labels": ("Labels", "The text's share."),
}
HELP = {
    "embeddings": "Of the tables before the first and behind the last block.",
    "rule": "Which layers get more of the bits.",
    "layers": "A line each: block and projection, a full name, or a pattern, and bits.",
}


def asked_fields(form: Form, preset: type[Preset]) -> None:
    """How the size is asked, and the field for each way."""
    usual = sizing.values(JobConfig("", ""))
    ways = list(SIZED.items())
    form.fields["sized"] = w.Radio(ways, value=BITS, label="Asked as", elem_classes="segmented", elem_id="sized")
    with gr.Column(elem_classes="way") as form.ways[BITS]:
        bits_fields(form, preset, RecipeConfig().bits)
    with gr.Column(visible=False, elem_classes="way") as form.ways[SIZE]:
        text = "Of all weight files; met to some bytes where layers take any rate, never exceeded."
        form.fields[SIZE] = w.Line(value=usual[SIZE], label="Size", info=text, placeholder="1.9 MB", elem_id="size")
    with gr.Column(visible=False, elem_classes="way") as form.ways[FITS], gr.Row():
        text = "What answering takes, with the keys and values of the context."
        form.fields[FITS] = w.Line(value=usual[FITS], label="Memory", info=text, placeholder="8 GB", elem_id="fits")
        form.fields["context"] = w.Number(
            usual["context"], label="Context", info="Tokens.", min_width=120, elem_id="context"
        )


def bits_fields(form: Form, preset: type[Preset], bits: float) -> None:
    """Buttons, or a slider where a preset has many bitrates. The slider follows the buttons while it is hidden."""
    common: dict[str, Any] = {"value": bits, "label": "Bits per weight"}
    form.fields["bits"] = w.Radio(forms.bits_choices(preset), elem_classes="segmented", elem_id="bits", **common)
    common["label"] = "Mean bits per weight"
    form.fields["rate"] = w.Slider(**forms.rate_range(preset), visible=False, buttons=[], elem_id="rate", **common)


def shared_fields(form: Form) -> None:
    """Embeddings, and which layers get more bits."""
    usual = sizing.values(JobConfig("", ""))
    embeddings = [(f"{bits} bits" if bits else "Keep", bits) for bits in sorted(EMBEDDINGS, key=lambda b: -b % 99)]
    with gr.Row():
        form.fields["embeddings"] = w.Dropdown(
            embeddings, value=usual["embeddings"], label="Embeddings and head", info=HELP["embeddings"], min_width=160
        )
        form.fields["rule"] = w.Dropdown(
            list(RULES.items()), value=usual["rule"], label="Bits of layers", info=HELP["rule"], min_width=160
        )
    form.fields["layers"] = gr.Textbox(
        usual["layers"],
        label="Bits by hand",
        info=HELP["layers"],
        placeholder="3.down_proj=4\n*.v_proj=3",
        lines=2,
        max_lines=8,
        interactive=True,
        elem_id="layers",
    )


def tuning_fields(form: Form) -> None:
    usual = sizing.values(JobConfig("", ""))
    with gr.Row(elem_classes="thirds"):
        for name, (label, text) in STAGE_HELP.items():
            form.fields[name] = w.Checkbox(usual[name], label=label, info=text, min_width=150)
    with gr.Column(elem_classes="options"), gr.Row():
        for name, (label, text) in NUMBER_HELP.items():
            form.fields[name] = w.Number(usual[name], label=label, info=text, min_width=120)
        form.fields["tune signs"] = w.Dropdown(
            list(SIGNS.items()), value=usual["tune signs"], label="Relax signs", info="Of rotations."
        )
        text = "Unless packed."
        form.fields["tune head"] = w.Checkbox(usual["tune head"], label="Embeddings, too", info=text)
