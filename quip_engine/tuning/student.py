"""The packed model of a workspace in memory, as it would be loaded, ready to be tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from quip_engine.embedding import round_outer_
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.workspace import FinishedBlock, Kept, Workspace

OUTSIDE = "tuned-outside"  # entry of a workspace: what tuning has made of the tensors outside the blocks


def load_student(plan: Plan, space: Workspace, instead: dict[str, Tensor] | None = None) -> Skeleton:
    """The model of finished blocks, with what is outside of them as it is by now.

    ``instead``: what blocks that are not finished are, by name, where they are no longer the original's.
    """
    skeleton = Skeleton(Path(plan.facts.path), plan.device)
    skeleton.load_outside()
    outside = space.kept(OUTSIDE)
    replace_tensors(skeleton, outside.tensors() if outside else {})
    if plan.target.embeddings:
        round_outer_(skeleton.model, plan.target.embeddings)
    finished = space.finished_blocks()
    for index, block in enumerate(finished):
        _fill(skeleton, index, block)
    skeleton.instead = instead or {}
    for index in range(len(finished), plan.facts.blocks):
        skeleton.load_block(index)
    return skeleton


def store_student(space: Workspace, prefix: str, tensors: dict[str, Tensor], formats: dict[str, LayerFormat]) -> None:
    """Let finished blocks, and what is outside of them, have new tensors by name, and some layers a new format.

    ``prefix``: path of the blocks. To do it again changes nothing, so a process that is ended on the way may repeat it.
    """
    for index, block in enumerate(space.finished_blocks()):
        within = f"{prefix}.{index}."
        new = {name: tensor for name, tensor in tensors.items() if name.startswith(within)}
        if new:
            space.replace_block(index, *_replaced(block, new, formats))
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{prefix}.")}
    if outside:
        before = space.kept(OUTSIDE)
        space.keep(OUTSIDE, (before.tensors() if before else {}) | outside)


def _replaced(
    block: FinishedBlock, new: dict[str, Tensor], formats: dict[str, LayerFormat]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a block with new ones."""
    stored = Kept({}, block.path, block.bytes).tensors() | {name: tensor.cpu() for name, tensor in new.items()}
    layers, records = [], dict(block.formats)
    for layer in block.layers:
        form, (m, n) = formats.get(layer["name"]), layer["shape"]
        if form is not None:
            layout = form.layout(m, n)
            others = LayerFormat.from_json(block.formats[layer["name"]]).layout(m, n).keys() - layout.keys()
            stored = {name: t for name, t in stored.items() if name not in {f"{layer['name']}.{key}" for key in others}}
            bits = sum(spec.bits for spec in layout.values()) / (m * n)
            layers.append({**layer, "bits_per_weight": bits})
            records[layer["name"]] = form.to_json()
        else:
            layers.append(layer)
    record = {key: value for key, value in vars(block).items() if key not in ("path", "bytes")}
    return stored, record | {"layers": layers, "formats": records}


def replace_tensors(skeleton: Skeleton, tensors: dict[str, Tensor]) -> None:
    """Give parameters new values by name."""
    for name, tensor in tensors.items():
        skeleton.model.get_parameter(name).data.copy_(tensor)


def _fill(skeleton: Skeleton, index: int, finished: FinishedBlock) -> None:
    """Make a block on meta the finished one."""
    prefix, block = f"{skeleton.prefix}.{index}.", skeleton.blocks[index]
    stored = Kept({}, finished.path, finished.bytes).tensors()
    shapes = {layer["name"]: layer["shape"] for layer in finished.layers}
    packed = set()
    for path, record in finished.formats.items():
        (m, n), form = shapes[path], LayerFormat.from_json(record)
        layer = QuantizedLinear(n, m, f"{path}.bias" in stored, form, device="meta")
        packed |= {f"{path}.{name}" for name in layer.tensors()}
        block.set_submodule(path.removeprefix(prefix), layer)
    state = {
        name.removeprefix(prefix): (tensor if name in packed else _wide(tensor)).to(skeleton.device)
        for name, tensor in stored.items()
    }
    block.load_state_dict(state, assign=True)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
