"""The form and the engine say the same thing: parts, options, defaults, limits and the command line."""

import shlex
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from app import forms
from app.forms import Parts, rate_range
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.methods.registry import Preset, presets, presets_by_age, resolve
from quip_engine.parts import option
from quip_engine.rounding.ldlq import LDLQ


@pytest.mark.parametrize("preset", presets_by_age(), ids=lambda p: p.name)
def test_every_preset_comes_back_unchanged(preset):
    for bits in preset.bits:
        config = forms.recipe_config(preset.name, bits, forms.parts_of(RecipeConfig(preset.name, bits)))
        assert config == RecipeConfig(preset.name, bits)


def test_every_choice_is_a_preset_with_two_bits():
    assert all(2 in forms.preset_of(choice, "").bits for choice in forms.CHOICES)


def test_only_what_differs_is_kept():
    parts = forms.parts_of(RecipeConfig("quip#", 2))
    damping = ("rounding", "ldlq", "damping")
    changed = Parts({**parts.names, "transform": "none"}, {**parts.values, damping: 0.05})
    config = forms.recipe_config("quip#", 2, changed)
    assert (config.transform, config.codebook, config.options) == ("none", None, {"damping": 0.05})
    assert resolve(config).rounding.damping == 0.05


def test_numbers_of_a_form_are_floats():
    parts = forms.parts_of(RecipeConfig("quip#", 2))
    config = forms.recipe_config("quip#", 2, Parts(parts.names, {**parts.values, ("rounding", "ldlq", "sweeps"): 7.0}))
    assert config.options == {"sweeps": 7}
    assert isinstance(config.options["sweeps"], int)
    assert forms.calibration_config(" bundled ", 64.0, 128.0) == CalibrationConfig("bundled", 64, 128)


@pytest.mark.parametrize(("samples", "seqlen"), [(0, 64), (2.5, 64), (None, 64), (8, "x"), (8, float("nan")), (8, 1)])
def test_bad_calibration_numbers_have_a_name(samples, seqlen):
    with pytest.raises(QuipError) as caught:
        forms.calibration_config("bundled", samples, seqlen)
    assert caught.value.code == "BAD_SETTING"


def test_an_empty_source_and_an_empty_option_are_refused():
    with pytest.raises(QuipError) as caught:
        forms.calibration_config(None, 8, 64)
    assert caught.value.code == "CALIB_EMPTY"
    parts = forms.parts_of(RecipeConfig("quip#", 2))
    with pytest.raises(QuipError) as caught:
        forms.recipe_config("quip#", 2, Parts(parts.names, {**parts.values, ("rounding", "ldlq", "damping"): None}))
    assert caught.value.code == "BAD_SETTING"


def test_field_errors_say_what_is_allowed():
    assert forms.field_error("samples", 128.0) == ""
    assert "1 to" in forms.field_error("samples", 0)
    assert "whole number" in forms.field_error("seed", 1.5)
    assert forms.option_error(("rounding", "ldlq", "damping"), 0.01) == ""
    assert "0 to 1" in forms.option_error(("rounding", "ldlq", "damping"), 3)


@pytest.mark.parametrize(
    ("said", "meant"), [("search", "search"), (" search ", "search"), ("3", 3), ("3.5", 3.5), (2.4, 2.4)]
)
def test_a_word_may_stand_for_a_number(said, meant):
    rho = ("codebook", "grid", "rho")
    parts = forms.parts_of(RecipeConfig("quip", 2))
    config = forms.recipe_config("quip", 2, Parts(parts.names, {**parts.values, rho: said}))
    assert config.options == ({} if meant == 2.4 else {"rho": meant})
    assert forms.option_error(rho, said) == ""


@pytest.mark.parametrize("said", ["serch", "nan", "30", "", None])
def test_what_is_neither_is_refused(said):
    rho = ("codebook", "grid", "rho")
    parts = forms.parts_of(RecipeConfig("quip", 2))
    with pytest.raises(QuipError) as caught:
        forms.recipe_config("quip", 2, Parts(parts.names, {**parts.values, rho: said}))
    assert caught.value.code == "BAD_SETTING"
    assert said in ("", None) or "0.1 to 20" in forms.option_error(rho, said)


def test_options_of_a_preset_lead_to_other_parts():
    act_order, order = ("method", "optq", "act_order"), ("rounding", "ldlq", "order")
    usual = forms.parts_of(RecipeConfig("optq", 2))
    assert (usual.values[act_order], usual.values[order]) == (True, "largest-first")
    other = forms.parts_of(RecipeConfig("optq", 2, options={"act_order": False}))
    assert (other.values[act_order], other.values[order]) == (False, "reversed")
    config = forms.recipe_config("optq", 2, other)
    assert config == RecipeConfig("optq", 2, options={"act_order": False})
    assert "--option act_order=false" in forms.command(JobConfig("m", "o", config))
    mixed = forms.recipe_config("optq", 2, Parts(other.names, {**other.values, order: "natural"}))
    assert mixed.options == {"act_order": False, "order": "natural"}
    assert forms.preset_options("quip#", other) == {}  # of another preset


def test_what_a_preset_settles_is_not_settled_twice(monkeypatch):
    """Its own option ``order`` keeps that of LDLQ out."""
    monkeypatch.setattr(presets, "_parts", {**presets._parts, "ordered": Ordered})
    monkeypatch.setattr(Ordered, "name", "ordered")
    parts = forms.parts_of(RecipeConfig("ordered", 2, options={"order": "largest-last"}))
    assert parts.values["rounding", "ldlq", "order"] == "largest-last"
    config = forms.recipe_config("ordered", 2, parts)
    assert config.options == {"order": "largest-last"}
    stale = Parts(parts.names, {**parts.values, ("rounding", "ldlq", "order"): "natural"})
    assert forms.recipe_config("ordered", 2, stale) == config


def test_every_option_of_every_part_has_a_field():
    shown = {key for key, _ in forms.options()}
    for slot, registry in forms.REGISTRIES.items():
        for part in registry:
            assert {(slot, part.name, o.key) for o in part.options() if o.key != "bits"} <= shown


def test_bits_go_to_the_nearest_the_preset_has():
    preset = forms.preset_of("Fast", "quip#")
    assert forms.bits_for(preset, 3) == 3
    assert forms.bits_for(preset, 8) == max(preset.bits)
    assert forms.bits_for(preset, None) == 2


class Dense(Preset):
    """Like those that spend bits by the column: any rate."""

    name = "dense"
    bits = tuple(i / 20 for i in range(20, 101))

    def recipe(self, bits):
        raise AssertionError


@dataclass(frozen=True)
class Ordered(Preset):
    """An option that a part has, too."""

    paper = published = summary = ""
    bits = (2,)
    order: str = option("natural", "which columns come first", choices=("natural", "largest-last"))

    def recipe(self, bits):
        return replace(presets.get("quip")().recipe(bits), rounding=LDLQ(order=self.order))


def test_many_bitrates_get_a_slider():
    assert not any(forms.is_dense(preset_type) for preset_type in (presets.get("quip#"), presets.get("nearest")))
    assert forms.is_dense(Dense)
    assert rate_range(Dense) == {"minimum": 1, "maximum": 5, "step": 0.05}


@pytest.mark.parametrize("bits", Dense.bits)
def test_every_bitrate_of_a_slider_arrives_exactly(bits):
    """A browser counts in steps: 1 + 0.05 k, with the rounding that brings."""
    counted = 1 + 0.05 * round((bits - 1) / 0.05)
    assert forms.bits_asked(Dense, 3, counted) == bits
    assert forms.bits_asked(Dense, 3, float(f"{bits:.2f}")) == bits


def test_a_bitrate_between_the_steps_is_not_moved_in_silence():
    assert forms.bits_asked(Dense, 3, 2.33) == 2.33
    assert forms.bits_asked(presets.get("quip#"), 3, 2.33) == 3
    with pytest.raises(QuipError) as caught:
        forms.bits_asked(Dense, 3, None)
    assert caught.value.hint == "Allowed: 1 to 5 in steps of 0.05."


def test_the_command_does_the_same():
    recipe = RecipeConfig("quip#", 3, transform="none", options={"damping": 0.05, "metric": False})
    job = JobConfig("my model", "/out/x", recipe, CalibrationConfig("wiki", 16, 64), 7, "cpu")
    words = shlex.split(forms.command(job))
    assert words[:5] == ["python", "-m", "quip_engine", "quantize", "my model"]
    pairs = {(a, b) for a, b in pairwise(words) if a.startswith("--")}
    assert {("--out", "/out/x"), ("--method", "quip#"), ("--bits", "3"), ("--transform", "none")} <= pairs
    assert {("--option", "damping=0.05"), ("--option", "metric=false"), ("--calibration", "wiki")} <= pairs
    assert {("--samples", "16"), ("--seqlen", "64"), ("--seed", "7"), ("--device", "cpu")} <= pairs


def test_the_command_leaves_defaults_out():
    assert forms.command(JobConfig("m", "o")) == "python -m quip_engine quantize m --out o --method 'quip#' --bits 2"
