"""A checkpoint on disk: a Hugging Face folder with packed layers.

    model-0000i-of-0000N.safetensors, model.safetensors.index.json   codes, small tensors, whatever stayed dense
    config.json            the source's, with ``quantization_config`` (how each layer is stored)
    quip_manifest.json     what was done and what it cost, and the SHA-256 of every other file
    modeling_quip.py       lets ``trust_remote_code=True`` load the folder, or say what is missing
    tokenizer, generation_config.json, chat template, LICENSE as in the source; README.md

The folder appears in one rename, complete. Equal jobs write equal bytes: no dates, durations or absolute paths.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quip_engine import __version__, files
from quip_engine.errors import fail
from quip_engine.probe.headers import read_all, read_header
from quip_engine.probe.packing import MANIFEST, METHOD
from quip_engine.probe.settings import ENCODERS

if TYPE_CHECKING:  # what they are made of is not read here
    from quip_engine.layer import LayerFormat
    from quip_engine.methods.registry import Recipe

# Raise it when the same bytes would mean other weights, or a folder of today could no longer be read.
FORMAT_VERSION = 2  # 1: codes of trellises stood for quantiles
INDEX = "model.safetensors.index.json"
CODE = "modeling_quip.py"
# What travels with a model unchanged.
COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("generation_config.json", "chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*"),
)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file in one step."""
    with files.replacing(path, tensor_bytes(tensors)) as temporary:
        save_tensors(temporary, tensors)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file where it stands; what the library says of the disk comes out as ``OSError``."""
    ordered = {name: tensors[name].detach().contiguous() for name in sorted(tensors)}
    try:
        save_file(ordered, path, metadata={"format": "pt"})
    except SafetensorError as error:  # carries its errno as text
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else errno.EIO, str(error)) from error


def tensor_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def quantization_config(
    *,
    method: str,
    bits: float,
    recipe: Recipe,
    seed: int,
    layers: dict[str, LayerFormat],
    skipped: dict[str, str],
    fused: dict[str, list[str]] | None = None,
    embeddings: dict[str, LayerFormat] | None = None,
) -> dict[str, Any]:
    """The entry of config.json: ``layers`` maps a module's name to its row in ``formats``, ``skipped`` to a reason.

    ``embeddings`` (left out where they are dense) are the packed embedding and head, as ``layers``.

    ``fused`` (left out where nothing is) names the linear layers, first to last, whose rows one packed layer holds.
    """
    formats: list[dict[str, Any]] = []

    def row(form: LayerFormat) -> int:
        if (record := form.to_json()) not in formats:
            formats.append(record)
        return formats.index(record)

    rows = {name: row(form) for name, form in layers.items()}
    outer = {name: row(form) for name, form in (embeddings or {}).items()}
    return {
        "quant_method": METHOD,
        "format_version": FORMAT_VERSION,
        "method": method,
        "bits": bits,
        "recipe": recipe.to_json(),
        "seed": seed,
        "formats": formats,
        "layers": rows,
        "skipped": skipped,
        **({"fused": fused} if fused else {}),
        **({"embeddings": outer} if outer else {}),
    }


def assemble(
    source: Path,
    out: Path,
    shards: list[Path],
    quantization_config: dict[str, Any],
    manifest: dict[str, Any],
    *,
    digests: Sequence[str] = (),
) -> int:
    """Make the folder ``out`` from written shards and the model folder ``source``. Returns its bytes.

    ``manifest`` holds the recipe and the figures, among them ``model`` (a name) and ``bits_per_weight``. ``out`` may
    exist only as an empty folder (``OUTPUT_EXISTS``). ``digests``: SHA-256 that the shards must have, where that is
    known (``CHECKPOINT_DAMAGED``).
    """
    with files.publishing(out) as folder:
        _place_shards(folder, shards)
        for pattern in COMPANIONS:
            for companion in sorted(source.glob(pattern)):
                files.copy(companion, folder / companion.name)
        config = _config(source, quantization_config)
        files.write_json(folder / "config.json", config)
        auto, names, task = _AUTO[config["model_type"] in ENCODERS]
        card = _card(quantization_config, manifest, auto=auto, task=task)
        files.write_bytes(folder / "README.md", card.encode())
        code = _MODELING.substitute(names=names, model_type=repr(config["model_type"]))  # quoted: it is not ours
        files.write_bytes(folder / CODE, code.encode())
        found = _write_manifest(folder, manifest)
        for shard, digest, expected in zip(shards, shard_digests(found), digests, strict=False):
            if digest != expected:
                fail("CHECKPOINT_DAMAGED", file=shard.name)
        return sum(path.stat().st_size for path in folder.iterdir())


def read_manifest(path: Path) -> dict[str, Any]:
    """What was done to the model of a folder; ``NOT_A_CHECKPOINT`` where that is not written down."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        reason = f"it has no {MANIFEST}" if isinstance(error, FileNotFoundError) else f"{MANIFEST} cannot be read"
        fail("NOT_A_CHECKPOINT", path=path, reason=reason)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        fail("NOT_A_CHECKPOINT", path=path, reason=f"{MANIFEST} lists no files")
    return manifest


def shard_digests(manifest: dict[str, Any]) -> list[str]:
    """SHA-256 of the weight files of a manifest, in their order."""
    entries = sorted(manifest["files"].items())
    return [entry["sha256"] for name, entry in entries if name.startswith("model-") and name.endswith(".safetensors")]


def verify(path: Path) -> None:
    """Compare every file of a folder with its SHA-256 in the manifest; ``CHECKPOINT_DAMAGED`` names the first."""
    for name, expected in read_manifest(path)["files"].items():
        file = path / name
        if file.parent != path or not file.is_file() or files.sha256(file) != expected["sha256"]:
            fail("CHECKPOINT_DAMAGED", file=name)


def _place_shards(folder: Path, shards: list[Path]) -> None:
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        files.link_or_copy(shard, folder / name)
        tensors = read_header(shard)
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files.write_json(folder / INDEX, index)


def _config(source: Path, quantization_config: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source / "config.json").read_bytes())
    if not (config.get("dtype") or config.get("torch_dtype")):
        # Loaders would guess it from the first tensor, which may now be one of our scales.
        config["dtype"] = _dtype(source)
    encoder = ENCODERS.get(config["model_type"])
    if encoder is not None:
        config["architectures"] = [encoder[0]]  # the head of its training task is gone
    config["auto_map"] = {_AUTO[encoder is not None][0]: f"{Path(CODE).stem}.QuipModel"}
    config["quantization_config"] = quantization_config
    return config


def _dtype(source: Path) -> str:
    """The type of the largest tensor of the source."""
    tensors = read_all(sorted(source.glob("*.safetensors")))
    return max(tensors.values(), key=lambda tensor: tensor.bytes).dtype


def _card(quantization_config: dict[str, Any], manifest: dict[str, Any], *, auto: str, task: str) -> str:
    return _CARD.substitute(
        model=manifest["model"],
        method=quantization_config["method"],
        bits=f"{quantization_config['bits']:g}",
        bits_per_weight=f"{manifest['bits_per_weight']:.3f}",
        auto=auto,
        task=task,
    )


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in sorted(folder.iterdir())
    }
    versions = {"quip_engine": __version__} | {name: version(name) for name in ("torch", "transformers", "safetensors")}
    whole = {**manifest, "versions": versions, "files": entries}
    files.write_json(folder / MANIFEST, whole)
    return whole


# Whether it is an encoder -> class that loads it, table of its classes in transformers, task on the hub.
_AUTO = {
    False: ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "text-generation"),
    True: ("AutoModel", "MODEL_MAPPING_NAMES", "feature-extraction"),
}
_CARD = Template("""\
---
library_name: transformers
pipeline_tag: $task
tags:
- quip
- quantized
---
# $model, $bits bits per weight

Made from $model with QuIP Studio, method `$method`. The quantized layers take
$bits_per_weight bits per weight, counting every stored byte of theirs.

```python
import quip_engine  # registers the format; without it the weights would be random
from transformers import $auto, AutoTokenizer

model = $auto.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

`quip_manifest.json` holds the recipe, the loss of every layer and the SHA-256 of every file.
""")

_MODELING = Template('''\
"""Loads this folder with `trust_remote_code=True`; after `import quip_engine` it loads without that."""

try:
    import quip_engine  # noqa: F401 - registers the format
except ImportError as error:
    raise ImportError("This model was quantized by QuIP Studio: install its quip_engine to load it.") from error

import transformers
from transformers.models.auto.modeling_auto import $names


class QuipModel(getattr(transformers, $names[$model_type])):
    """The architecture of the source with packed layers."""
''')
