"""Find the blocks of a language model and their linear layers by structure, not by a script per family.

    model = embed -> block 0 -> ... -> block L-1 -> norm -> head        block = linear layers + element-wise parts

The model is built on the meta device: names, shapes and code, no weights. The blocks are the outermost ``ModuleList``
with one entry per hidden layer. A linear layer is an ``nn.Linear`` or the transposed ``Conv1D`` of GPT-2; fused experts
become linear layers first (``experts``). An encoder is built without the head of its training task.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from quip_engine.encoders import leave_out_pooler
from quip_engine.experts import unfuse
from quip_engine.linalg.hessian import ROWS
from quip_engine.probe.facts import LinearLayer
from quip_engine.probe.settings import ENCODERS, SUPPORTED

__all__ = [
    "BUILDING",
    "SUPPORTED",
    "build_on_meta",
    "decoder_blocks",
    "hold_weights",
    "linear_layers",
    "linear_modules",
    "weight_of",
]


# transformers replaces functions for the whole process while it builds or reads a model (it ties no weights anywhere,
# for one): one thread at a time builds, reads or ties.
BUILDING = threading.RLock()
_building = threading.local()  # .on_meta: this thread's modules have their parameters on meta


def _parameter_on_meta(_: nn.Module, __: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None or not getattr(_building, "on_meta", False):
        return None  # registered as it is
    return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)


# Once and for ever, as torch walks through its hooks unlocked. A function of torch.nn replaced for the time of building
# would take the weights of a model that another thread reads meanwhile.
register_module_parameter_registration_hook(_parameter_on_meta)  # type: ignore[arg-type]  # may give one back


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made in here by this thread have no weights, but real buffers."""
    _building.on_meta = True
    try:
        yield
    finally:
        _building.on_meta = False


def build_on_meta(
    config: PretrainedConfig, dtype: torch.dtype = torch.float32, stored: Iterable[str] = ()
) -> PreTrainedModel:
    """The model of a checked config: parameters of ``dtype`` on meta, buffers (rotary frequencies) real.

    ``stored`` names the tensors of its files. Runs code of transformers only, never of the model folder.
    """
    auto = AutoModel if config.model_type in ENCODERS else AutoModelForCausalLM
    with BUILDING, _parameters_on_meta():
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False).eval()
    unfuse(model)
    leave_out_pooler(model, stored)
    return model


def decoder_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Module path (``model.layers``) and list of the blocks. Raises ``ValueError`` where there is none."""
    count = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of {count} blocks")


def linear_modules(block: nn.Module) -> dict[str, nn.Module]:
    """Linear layers of a block by path inside the block (``self_attn.q_proj``), in order of definition."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear layer as (m, n) = (outputs, inputs); a view."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def hold_weights(layers: dict[str, nn.Module], dtype: torch.dtype) -> None:
    """Let the weights of linear layers wait in another type; one that would lose by it stays as it is."""

    def same(narrow: Tensor, wide: Tensor) -> bool:
        return torch.equal(narrow.to(wide.dtype), wide)

    for module in layers.values():
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        held = weight.data.to(dtype)
        if all(map(same, held.split(ROWS), weight.data.split(ROWS))):
            weight.data = held


def linear_layers(prefix: str, blocks: nn.ModuleList) -> list[LinearLayer]:
    """Every linear layer of the blocks at module path ``prefix``, as people name it, first block to last.

    A projection is called by the last part of its path, or by the whole path in the block where that is not unique
    (``attn.c_proj`` and ``mlp.c_proj`` of GPT-2).
    """
    layers = []
    for i, block in enumerate(blocks):
        modules = linear_modules(block)
        last = Counter(path.rpartition(".")[2] for path in modules)
        for path, module in modules.items():
            short = path.rpartition(".")[2]
            m, n = weight_of(module).shape
            layers.append(LinearLayer(f"{prefix}.{i}.{path}", i, short if last[short] == 1 else path, (m, n)))
    return layers
