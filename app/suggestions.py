"""Small open models that are known to work here, with what each would cost on this computer.

Their shapes stand in their public config.json; every figure is computed from these: parameters and bytes from the
tensors of the architecture, the rest by ``estimate`` with the recipe the demo uses. Computed once, beside the pages.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from app.library import SMALL
from app.machine import memory
from quip_engine.config import CalibrationConfig
from quip_engine.estimate import Estimate, estimate
from quip_engine.methods.registry import resolve
from quip_engine.probe import ModelFacts
from quip_engine.probe.planned import planned_facts

ROOM = 0.8  # share of the memory that a run may take and still fit well


@dataclass(frozen=True)
class Model:
    """What is known of a model without asking the hub."""

    name: str
    licence: str
    config: dict[str, Any]
    stored_head: bool = False  # its files repeat the embedding as the head
    gated: bool = False


@dataclass(frozen=True)
class Suggestion:
    model: Model
    facts: ModelFacts
    costs: Estimate

    def fits(self, total: float) -> tuple[str, str]:
        """(word, kind of pill) for a memory of ``total`` bytes."""
        if self.costs.peak_memory < ROOM * total:
            return "fits", "yes"
        return ("tight", "tight") if self.costs.peak_memory < total else ("too large", "no")


def _shape(hidden: int, inner: int, blocks: int, heads: tuple[int, int], **more: Any) -> dict[str, Any]:
    """The sizes of a config.json; ``heads`` of queries, and of keys and values."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {**dict(zip(names, (hidden, inner, blocks, *heads), strict=True)), "dtype": "bfloat16", **more}


def _smol(*sizes: Any) -> dict[str, Any]:
    more: dict[str, Any] = {"vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192}
    return _shape(*sizes, model_type="llama", architectures=["LlamaForCausalLM"], **more)


def _qwen(*sizes: Any, tied: bool = True) -> dict[str, Any]:
    more: dict[str, Any] = {
        "vocab_size": 151936,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 40960,
        "head_dim": 128,
    }
    return _shape(*sizes, model_type="qwen3", architectures=["Qwen3ForCausalLM"], **more)


def _llama(*sizes: Any) -> dict[str, Any]:
    more: dict[str, Any] = {
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "head_dim": 64,
    }
    return _shape(*sizes, model_type="llama", architectures=["LlamaForCausalLM"], **more)


MODELS = (
    Model("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", _smol(576, 1536, 30, (9, 3))),
    Model("HuggingFaceTB/SmolLM2-360M-Instruct", "apache-2.0", _smol(960, 2560, 32, (15, 5))),
    Model("Qwen/Qwen3-0.6B", "apache-2.0", _qwen(1024, 3072, 28, (16, 8)), stored_head=True),
    Model("meta-llama/Llama-3.2-1B-Instruct", "llama3.2", _llama(2048, 8192, 16, (32, 8)), gated=True),
    Model("Qwen/Qwen3-1.7B", "apache-2.0", _qwen(2048, 6144, 28, (16, 8)), stored_head=True),
    Model("Qwen/Qwen3-4B", "apache-2.0", _qwen(2560, 9728, 36, (32, 8))),
    Model("Qwen/Qwen3-8B", "apache-2.0", _qwen(4096, 12288, 36, (32, 8), tied=False)),
    Model("Qwen/Qwen3-14B", "apache-2.0", _qwen(5120, 17408, 40, (40, 8), tied=False)),
)


class Suggestions:
    """``all`` answers at once: None until a thread has computed them."""

    def __init__(self) -> None:
        self._found: list[Suggestion] | None = None
        self._lock = threading.Lock()
        self._started = False

    def all(self) -> list[Suggestion] | None:
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._compute, name="suggestions", daemon=True).start()
            return self._found

    def _compute(self) -> None:
        self._found = [suggest(model) for model in MODELS]


def suggest(model: Model, device: str = "auto") -> Suggestion:
    facts = planned_facts(model.name, model.config, stored_head=model.stored_head)
    return Suggestion(model, facts, estimate(facts, resolve(SMALL), CalibrationConfig(), device))


def total_memory() -> int:
    """Bytes of the memory that a run uses here."""
    return memory().total
