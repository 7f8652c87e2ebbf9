"""The finished model: what lies outside the blocks is added, and the folder appears in one rename."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from quip_engine.block_work import stored
from quip_engine.checkpoint import assemble, quantization_config, read_manifest, shard_digests
from quip_engine.embedding import embeddings_record, outer_modules, packed_outer
from quip_engine.errors import QuipError
from quip_engine.finite import check_stored
from quip_engine.layer import LayerFormat
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.targets import Allocation
from quip_engine.tuning.stages import results
from quip_engine.tuning.student import OUTSIDE
from quip_engine.workspace import FinishedBlock, Workspace

OF_THE_RUN = ("seconds", "theory")  # of a layer's record: not kept with the model


def publish(plan: Plan, skeleton: Skeleton, space: Workspace, done: list[FinishedBlock], shared: Allocation) -> None:
    """Write what lies outside the blocks and let the finished folder appear in one rename."""
    plan.sources.check()
    skeleton.load_outside()
    plan.sources.check()
    tuned = space.kept(OUTSIDE)
    tensors = _outside_tensors(plan, skeleton) | (tuned.tensors() if tuned else {})
    check_stored(tensors)
    outside = space.keep("outside", tensors)
    skeleton.release_outside()
    recipe, job = plan.job.recipe, {"method": plan.job.recipe.method, "bits": plan.job.recipe.bits}
    skipped = {name: reason for block in done for name, reason in block.skipped.items()}
    formats = {name: LayerFormat.from_json(f) for block in done for name, f in block.formats.items()}
    form = plan.target.embeddings
    outer = outer_modules(skeleton.model) if form else {}
    quantization = quantization_config(
        method=recipe.method,
        bits=recipe.bits,
        recipe=plan.recipe,
        seed=plan.job.seed,
        layers=formats,
        skipped=skipped,
        embeddings={path: form for path in outer if form},
    )
    calibration = {**asdict(plan.job.calibration), "windows": list(plan.tokens.shape)}
    tuning = plan.job.tuning
    manifest = {
        "model": plan.facts.name,
        **job,
        "bits_per_weight": mean_bits(done),
        "recipe": plan.recipe.to_json(),
        "seed": plan.job.seed,
        "calibration": {**calibration, "source": Path(calibration["source"]).name},
        "layers": [{k: v for k, v in layer.items() if k not in OF_THE_RUN} for block in done for layer in block.layers],
        "skipped": skipped,
        "fallbacks": [name for block in done for name in block.fallbacks],
        **({"overflow": done[-1].overflow} if done[-1].overflow else {}),
        **({"tuning": {**asdict(tuning), "results": results(plan, space)}} if tuning.stages else {}),
        **({"allocation": shared.to_json()} if shared.bits else {}),
        **({"embeddings": embeddings_record(outer, form)} if form else {}),
    }
    assert outside.path is not None
    shards = [outside.path, *(block.path for block in done)]
    digests = [path.name for path in shards]
    assemble(Path(plan.facts.path), Path(plan.job.out).absolute(), shards, quantization, manifest, digests=digests)


def is_published(space: Workspace, out: Path) -> bool:
    """Whether ``out`` holds the very blocks of a workspace: its run ended between its last two steps."""
    blocks = [block.path.name for block in space.finished_blocks()]
    try:
        _outside, *rest = shard_digests(read_manifest(out))
    except (QuipError, ValueError):
        return False
    return space.kept("outside") is not None and rest == blocks


def _outside_tensors(plan: Plan, skeleton: Skeleton) -> dict[str, Tensor]:
    """Embeddings, final norm and head, packed or in the model's own dtype; a tied head is stored once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    form, dtype = plan.target.embeddings, getattr(torch, plan.facts.dtype)
    packed = {f"{path}.weight": module for path, module in outer_modules(skeleton.model).items()} if form else {}
    for key, tensor in skeleton.model.state_dict(keep_vars=True).items():
        if key.startswith(f"{skeleton.prefix}.") or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if form and key in packed:
            parts = packed_outer(packed[key], form, dtype)
            found |= {f"{key.removesuffix('weight')}{name}": part for name, part in parts.items()}
        else:
            found[key] = stored(tensor.detach(), plan.facts)
    return found


def mean_bits(done: list[FinishedBlock]) -> float:
    """Stored bits per quantized weight, over all quantized layers."""
    layers = [layer for block in done for layer in block.layers]
    weights = [layer["shape"][0] * layer["shape"][1] for layer in layers]
    bits = sum(w * layer["bits_per_weight"] for w, layer in zip(weights, layers, strict=True))
    return bits / max(1, sum(weights))
