"""Check a model before anything touches it: supported or not and why, and what it is, in under two seconds.

No weight is loaded and no code of the folder runs. Cheap questions come first: the path, config.json, the headers of
the weight files; then the tokenizer in a child process and, meanwhile, names and shapes against the architecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quip_engine.errors import fail
from quip_engine.probe import folder as folders
from quip_engine.probe import headers, settings
from quip_engine.probe.facts import ModelFacts
from quip_engine.probe.tokenizer import NO_TEMPLATE, TokenizerCheck

__all__ = ["ModelFacts", "locate", "probe"]


def probe(model: str, *, offline: bool = False) -> ModelFacts:
    """Facts of a local folder or hub id; raises the coded error of the first thing that is wrong with it."""
    path, name = locate(model, offline=offline)
    config = settings.read_config(path)
    settings.check_config(config, path)
    files = folders.weight_files(path)
    tensors = headers.read_all(files)
    with TokenizerCheck(path) as tokenizer:
        from quip_engine.probe.names import check_weights  # noqa: PLC0415 - transformers, only for folders that got here

        weights = check_weights(config, tensors)
        words = tokenizer.result()
    if words.tokens > weights.vocabulary:
        fail("VOCAB_MISMATCH", tokens=words.tokens, rows=weights.vocabulary)
    chats = config["model_type"] not in settings.ENCODERS
    warnings = weights.warnings + [warning for warning in words.warnings if chats or warning != NO_TEMPLATE]
    details: dict[str, Any] = {**vars(weights), "warnings": warnings}
    return ModelFacts(
        path=str(path),
        name=name,
        architecture=settings.architecture_of(config),
        model_type=config["model_type"],
        blocks=1 + max(layer.block for layer in weights.linear_layers),
        bytes=sum(file.stat().st_size for file in files),
        licence=folders.licence_of(path),
        chat_template=words.chat_template,
        **details,
    )


def locate(model: str, *, offline: bool = False) -> tuple[Path, str]:
    """The folder of a local path or hub id, and what people call it; nothing in it is checked.

    A hub id is taken from the local cache, else downloaded (never with ``offline``).
    """
    folder, name = folders.local_folder(model), model.strip()
    return (folder, folder.name) if folder else (_from_hub(name, offline), name)


def _from_hub(name: str, offline: bool) -> Path:
    from quip_engine import hub  # noqa: PLC0415 - its client takes longer to import than a local folder to check

    return hub.fetch(name, offline)
