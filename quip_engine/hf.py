"""Our checkpoints in ``transformers``: ``import quip_engine``, then ``AutoModelForCausalLM.from_pretrained(folder)``.

``transformers`` asks a quantizer to change the model while it is still on the meta device, then fills it from the
files, and on the way it is lenient: a missing tensor is drawn at random, an integer tensor of another type replaces
the expected one. So every name, type and shape is compared with the headers of the files before the first weight is
read, and what does not fit raises ``BAD_CHECKPOINT``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import WeightTransform
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from quip_engine.checkpoint import FORMAT_VERSION
from quip_engine.codebooks.grid import RowGrid
from quip_engine.embedding import QuantizedEmbedding, outer_modules, pack_outer
from quip_engine.encoders import leave_out_pooler
from quip_engine.errors import QuipError, fail
from quip_engine.experts import unfuse, unfused_names
from quip_engine.fused import place_fused
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.probe.headers import TensorInfo, read_all
from quip_engine.probe.packing import METHOD
from quip_engine.transforms.none import Identity

DENSE = ("float16", "bfloat16", "float32", "float64")  # types a tensor that was not quantized may have


def register() -> None:
    """Make ``transformers`` know the method. Importing this module does it; doing it again changes nothing."""
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, QuipConfig)
    auto.AUTO_QUANTIZER_MAPPING.setdefault(METHOD, QuipQuantizer)


class QuipConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of config.json, as ``checkpoint.quantization_config`` writes it."""

    def __init__(
        self,
        *,
        quant_method: str = METHOD,
        format_version: int = FORMAT_VERSION,
        method: str = "",
        bits: float = 0,
        recipe: dict[str, Any] | None = None,
        seed: int = 0,
        formats: list[dict[str, Any]] | None = None,
        layers: dict[str, int] | None = None,
        skipped: dict[str, str] | None = None,
        fused: dict[str, list[str]] | None = None,
        embeddings: dict[str, int] | None = None,
        **unknown: Any,
    ) -> None:
        if type(format_version) is not int or format_version != FORMAT_VERSION:
            reason = f"its format is version {format_version}, this program reads version {FORMAT_VERSION}"
            fail("BAD_CHECKPOINT", path="config.json", reason=reason)
        if unknown:
            fail("BAD_CHECKPOINT", path="config.json", reason=f"unknown entry {sorted(unknown)[0]!r}")
        self.quant_method = quant_method
        self.format_version, self.method, self.bits, self.seed = format_version, method, bits, seed
        self.recipe, self.formats, self.layers, self.skipped = recipe or {}, formats or [], layers or {}, skipped or {}
        self.fused, self.embeddings = fused or {}, embeddings or {}

    def to_dict(self) -> dict[str, Any]:
        """The entry as it is written: without ``fused`` and ``embeddings`` where nothing is."""
        return {key: value for key, value in super().to_dict().items() if key not in ("fused", "embeddings") or value}

    def layer_formats(self) -> dict[str, LayerFormat]:
        """How each layer is stored, by module path."""
        return self._formats_of(self.layers)

    def embedding_formats(self) -> dict[str, LayerFormat]:
        """How embedding and head are stored, by module path; empty where they are dense."""
        return self._formats_of(self.embeddings)

    def _formats_of(self, rows: dict[str, int]) -> dict[str, LayerFormat]:
        try:
            known = [LayerFormat.from_json(record) for record in self.formats]
            return {name: known[row] for name, row in rows.items()}
        except QuipError as error:
            fail("BAD_CHECKPOINT", path="config.json", reason=error.message.rstrip("."))
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            fail("BAD_CHECKPOINT", path="config.json", reason="its list of layers is damaged", details=repr(error))

    def layer_parts(self) -> dict[str, list[str]]:
        """The linear layers whose rows each layer holds, by module path: itself alone, unless it is fused."""
        try:
            parts = {path: [str(part) for part in self.fused.get(path, [path])] for path in self.layers}
            known = self.fused.keys() <= self.layers.keys() and all(parts.values())
        except (TypeError, AttributeError):
            known = False
        if not known or len(named := [part for of in parts.values() for part in of]) > len(set(named)):
            fail("BAD_CHECKPOINT", path="config.json", reason="its list of fused layers is damaged")
        return parts


class QuipQuantizer(HfQuantizer):
    """Puts ``QuantizedLinear`` where the checkpoint has codes. Models are made by the pipeline, never on the fly."""

    requires_calibration = True
    quantization_config: QuipConfig

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, dtype: torch.dtype | None = None, **_: Any
    ) -> None:
        unfuse(model)
        stored = read_all([Path(file) for file in checkpoint_files]) if checkpoint_files else None
        if stored is not None:
            leave_out_pooler(model, stored)
        place_packed(model, self.quantization_config, dtype)
        for module in model.modules():
            if not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                # Nothing to draw at random here; GPT-2's would reach for the weight of its child.
                module._is_hf_initialized = True  # type: ignore[assignment]
        if checkpoint_files and stored is not None:
            check_tensors(model, Path(checkpoint_files[0]).parent, stored)

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: nn.Module
    ) -> list[WeightTransform]:
        return unfused_names(weight_conversions)

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> None:
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                for tensor in module.tensors().values():
                    tensor.requires_grad_(False)
        # A copy by ``save_pretrained`` has no ``modeling_quip.py``, unless the model was loaded through it.
        if not type(model).__module__.startswith("transformers_modules"):
            vars(model.config).pop("auto_map", None)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def place_packed(model: nn.Module, config: QuipConfig, dtype: torch.dtype | None = None) -> None:
    """Put packed layers where a model has the linear layers they stand for. Raises ``BAD_CHECKPOINT``.

    They are made on the meta device; ``dtype`` is that of their biases. So are packed embeddings and heads.
    """
    _place_embeddings(model, config, dtype)
    formats, parts, known = config.layer_formats(), config.layer_parts(), dict(model.named_modules())
    for path, layer_format in formats.items():
        name, *places = _in_model([path, *parts[path]], model, known)
        try:
            modules = [known[place] for place in places]
            widths = [_widths(module) for module in modules]
        except (KeyError, AttributeError):
            named = " or ".join(parts[path])
            fail("BAD_CHECKPOINT", path="config.json", reason=f"the model has no linear layer {named}")
        inputs, rows = widths[0][0], dict(zip(places, (outputs for _, outputs in widths), strict=True))
        has_bias = any(module.bias is not None for module in modules)
        layer = QuantizedLinear(inputs, sum(rows.values()), has_bias, layer_format, device="meta", dtype=dtype)
        if places == [name]:
            model.set_submodule(name, layer)
            continue
        owners = {place.rpartition(".")[0] for place in (name, *places)}
        if name in known or has_bias or len(owners) > 1 or any(n != inputs for n, _ in widths):
            fail("BAD_CHECKPOINT", path="config.json", reason=f"{path} cannot be one with {', '.join(parts[path])}")
        place_fused(model, name, layer, rows)


def _place_embeddings(model: nn.Module, config: QuipConfig, dtype: torch.dtype | None) -> None:
    """A model without a head takes the embedding alone."""
    formats, there = config.embedding_formats(), outer_modules(model) if config.embeddings else {}
    found = {next((form for form in _forms(path, model) if form in there), path): f for path, f in formats.items()}
    if not found:
        return
    if any(not isinstance(form.codebook, RowGrid) or form.transform != Identity() for form in found.values()):
        fail("BAD_CHECKPOINT", path="config.json", reason="embeddings are stored in grids of rows")
    if missing := [path for path in there if path not in found]:
        fail("BAD_CHECKPOINT", path="config.json", reason=f"{missing[0]} is not packed like the embedding")
    pack_outer(model, {path: form for path, form in found.items() if path in there}, dtype)


def check_tensors(model: nn.Module, folder: Path, found: dict[str, TensorInfo]) -> None:
    """Compare the tensors a model (on meta) needs with the headers of its files. Raises ``BAD_CHECKPOINT``."""
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    for name, tensor in model.state_dict().items():
        stored = next((form for form in _forms(name, model) if form in found), None)
        if stored is None and name not in tied:
            fail("BAD_CHECKPOINT", path=folder, reason=f"{name} is missing")
        if stored and (wrong := _difference(tensor, found[stored], exact=_is_packed(model, name))):
            fail("BAD_CHECKPOINT", path=folder, reason=f"{name} {wrong}")


def _forms(name: str, model: nn.Module) -> tuple[str, ...]:
    """A name as it may be in a model without head made from one that has it, or the reverse."""
    prefix = f"{model.base_model_prefix}."
    return name, prefix + name, name.removeprefix(prefix)


def _in_model(paths: list[str], model: nn.Module, known: dict[str, nn.Module]) -> list[str]:
    """Paths of a layer and its parts in the form in which the model has all parts; as they are where there is none."""
    forms = zip(*(_forms(path, model) for path in paths), strict=True)
    return next((list(form) for form in forms if all(part in known for part in form[1:])), paths)


def _difference(tensor: Tensor, stored: TensorInfo, *, exact: bool) -> str:
    """What is wrong about a stored tensor; empty where it fits. ``exact``: its type matters as much as its shape."""
    expected = (str(tensor.dtype).removeprefix("torch."),) if exact else DENSE
    if stored.dtype not in expected:
        return f"is stored as {stored.dtype} instead of {' or '.join(expected)}"
    if stored.shape != tuple(tensor.shape):
        return f"has shape {stored.shape} instead of {tuple(tensor.shape)}"
    return ""


def _is_packed(model: nn.Module, name: str) -> bool:
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    return isinstance(module, QuantizedLinear | QuantizedEmbedding) and key in module.tensors()


def _widths(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; ``AttributeError`` for anything else."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    raise AttributeError(f"{type(module).__name__} is not linear")


register()
