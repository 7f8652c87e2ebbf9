"""R17, R18, 67: NaN and infinities are named where they are; H of no use is no reason for a bad layer.

python tests/soak/numerics.py [--fast]
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from soak import Row, arguments, report  # finds what follows

# isort: split

import torch
from helpers import overflowing_model, overflowing_text, random_layer, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from workers import quantize, scratch, tiny_job

from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig
from quip_engine.errors import QuipError
from quip_engine.layer import quantize_weight
from quip_engine.linalg.hessian import NO_SIGNAL
from quip_engine.linalg.proxy import quadratic_trace
from quip_engine.methods.registry import resolve

NAN, INF, HUGE = float("nan"), float("inf"), 3e38
LAYERS = "model.layers"
# tensor of the model folder: (value of one element, or of all where it is HUGE; what the message must name)
IN_WEIGHTS = {
    f"{LAYERS}.0.self_attn.q_proj.weight": (NAN, f"{LAYERS}.0.self_attn.q_proj.weight"),
    f"{LAYERS}.1.mlp.down_proj.weight": (INF, f"{LAYERS}.1.mlp.down_proj.weight"),
    f"{LAYERS}.0.input_layernorm.weight": (NAN, f"{LAYERS}.0.input_layernorm.weight"),
    f"{LAYERS}.1.self_attn.k_proj.bias": (-INF, f"{LAYERS}.1.self_attn.k_proj.bias"),
    "model.embed_tokens.weight": (NAN, "model.embed_tokens.weight"),
    "model.norm.weight": (INF, "model.norm.weight"),
}
IN_ACTIVATIONS = {
    f"{LAYERS}.0.post_attention_layernorm.weight": (HUGE, f"{LAYERS}.0"),
    f"{LAYERS}.1.input_layernorm.weight": (HUGE, f"{LAYERS}.1"),
}
PRESETS = {
    "optq": {},
    "quip": {},
    "quip#": {},
    "qtip": {"L": 8},
    "icquant": {},
    "waterfill": {"L": 8},
}


def places(folder: Path) -> Row:
    row = Row("R17", "NaN and infinity in 12 places: each named with tensor and layer, no model made")
    job = replace(tiny_job(folder, "never"), model=str(tiny_model(folder, "qwen2")))
    weights = Path(job.model) / "model.safetensors"
    good = load_file(weights)
    for name, (value, expected) in {**IN_WEIGHTS, **IN_ACTIVATIONS}.items():
        tensors = {key: tensor.clone() for key, tensor in good.items()}
        tensors[name].view(-1)[: None if value == HUGE else 1] = value
        save_file(tensors, weights, metadata={"format": "pt"})
        _expect(row, f"{value} in {name}", expected, lambda: quantize(job, folder / "work"))
        shutil.rmtree(folder / "work", ignore_errors=True)
        if Path(job.out).exists():
            row.problems.append(f"{name}: a model was made")
    save_file(good, weights, metadata={"format": "pt"})
    recipe = resolve(RecipeConfig("quip#"))
    places_of_layer: dict[str, tuple[int, int, float]] = {
        "H of layer": (3, 3, NAN),
        "H of layer ": (0, 5, NAN),
        "H of layer  ": (5, 5, INF),
        "layer": (2, 2, NAN),
    }
    for what, (i, j, value) in places_of_layer.items():
        W, H = random_layer()
        (H if what.startswith("H") else W)[i, j] = value
        _expect(row, f"{value} in {what}", what.strip(), lambda: quantize_weight(W, H, recipe, name="layer"))  # noqa: B023
    count = len(IN_WEIGHTS) + len(IN_ACTIVATIONS) + len(places_of_layer)
    return row.close(f"{count - len(row.problems)} of {count} named")


def _expect(row: Row, what: str, name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except QuipError as error:
        if name not in error.message or error.code not in ("NON_FINITE", "NON_FINITE_WEIGHT", "ACTIVATION_OVERFLOW"):
            row.problems.append(f"{what}: {error.code} {error.message}")
    else:
        row.problems.append(f"{what}: went on")


def hessians() -> dict[str, Tensor]:
    """H: (48, 48) that tell little or nothing."""
    _, H = random_layer()
    x = torch.randn(48, generator=torch.Generator().manual_seed(5))
    found = {"zero H": torch.zeros_like(H), "rank one H": torch.outer(x, x), "one token": torch.outer(H[0], H[0])}
    for dead in (1, 24, 48):
        some = H.clone()
        some[:dead] = some[:, :dead] = 0
        found[f"{dead} of 48 inputs dead"] = some
    return found


def useless(methods: list[str]) -> Row:
    row = Row("R18", "dead inputs, zero and rank one H: finite, no worse than plain rounding, fallbacks told")
    W, _ = random_layer()
    worst, count = 0.0, 0
    for what, H in hessians().items():
        plain = quantize_weight(W, H, resolve(RecipeConfig("nearest", 2)))
        for method in methods:
            options = {"hessian": "plain", **PRESETS[method]} if method in ("qtip", "waterfill") else PRESETS[method]
            done = quantize_weight(W, H, resolve(RecipeConfig(method, 2, options=options)))
            count += 1
            error, limit = (quadratic_trace(found.dequantize() - W, H) for found in (done, plain))
            worst = max(worst, error / limit if limit else 0.0)
            finite = bool(torch.isfinite(done.dequantize()).all()) and all(
                bool(torch.isfinite(t).all()) for t in done.tensors.values() if t.is_floating_point()
            )
            told = bool(done.report.notes) or ("dead" not in what and bool(H.any()))
            if not (finite and told and error <= limit * (1 + 1e-6)):
                row.problems.append(f"{method}, {what}: {finite=} {told=} {error:.3g} against {limit:.3g}")
    return row.close(
        f"{count} layers, output error at most {worst:.2f} of plain rounding's, {len(row.problems)} problems"
    )


def quota(folder: Path) -> Row:
    """A model with one layer in fourteen that no signal reaches."""
    row = Row("R18", "more than 5 % of the layers on fallbacks end the run, fewer are listed")
    job = tiny_job(folder, "dead")
    weights = Path(job.model) / "model.safetensors"
    tensors = load_file(weights)
    for name in ("gate_proj", "up_proj"):  # down_proj of block 0 reads nothing but zeros
        tensors[f"{LAYERS}.0.mlp.{name}.weight"].zero_()
    save_file(tensors, weights, metadata={"format": "pt"})
    results = [_finish(replace(job, fallbacks=share), folder) for share in (0.05, 0.2)]
    if not (results[0].startswith("QUANT_UNSTABLE") and results[1] == "1 listed"):
        row.problems.append(str(results))
    return row.close("; ".join(results))


def _finish(job: JobConfig, folder: Path) -> str:
    from quip_engine.checkpoint import read_manifest

    try:
        quantize(job, folder / "work-quota")
    except QuipError as error:
        shutil.rmtree(folder / "work-quota")
        return f"{error.code}: {error.message}"
    manifest = read_manifest(Path(job.out))
    told = [layer for layer in manifest["layers"] if any(note.startswith(NO_SIGNAL) for note in layer["notes"])]
    return f"{len(told)} listed" if [layer["name"] for layer in told] == manifest["fallbacks"] else "not listed"


def aside(folder: Path, methods: list[str]) -> Row:
    """Two and three windows of twenty that overflow."""
    row = Row("67", "calibration windows that overflow: up to a tenth are put aside and named, more end the run")
    model = overflowing_model(folder)
    for method in methods:
        for count in (2, 3):
            text = CalibrationConfig(str(overflowing_text(folder / "windows.jsonl", 20, 32, count)), 20, 32)
            recipe = RecipeConfig(method, 2, options=PRESETS[method])
            job = JobConfig(str(model), str(folder / f"aside-{method}"), recipe, text, device="cpu", threads=1)
            result = _put_aside(job, folder)
            if result != ("ACTIVATION_OVERFLOW: 3 of 20" if count == 3 else "finished without 2, finite"):
                row.problems.append(f"{method}, {count} of 20: {result}")
    return row.close(f"{2 * len(methods) - len(row.problems)} of {2 * len(methods)} runs")


def _put_aside(job: JobConfig, folder: Path) -> str:
    from quip_engine.checkpoint import read_manifest

    out = Path(job.out)
    try:
        quantize(job, folder / "work-aside")
        named = read_manifest(out).get("overflow", {}).get("model.decoder.layers.0", [])
        tensors = [t for file in out.glob("*.safetensors") for t in load_file(file).values() if t.is_floating_point()]
        finite = all(bool(torch.isfinite(t).all()) for t in tensors)
        return f"finished without {len(named)}, {'finite' if finite else 'not finite'}"
    except QuipError as error:
        return f"{error.code}: {error.message[:7]}"
    finally:
        shutil.rmtree(folder / "work-aside", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)


def main() -> int:
    options = arguments(__doc__)
    with scratch() as folder:
        tiny_job(folder, blocks=2)
        rows = [places(folder), useless(["quip#", "optq"] if options.fast else list(PRESETS)), quota(folder)]
        return report([*rows, aside(folder, ["waterfill"] if options.fast else list(PRESETS))])


if __name__ == "__main__":
    sys.exit(main())
