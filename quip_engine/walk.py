"""A model and the calibration states on their way through it, before one of its blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from quip_engine.activations import Activations
from quip_engine.embedding import round_outer_
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.workspace import Workspace


class Walk:
    """``activations`` went through the quantized blocks; ``original``, where targets are corrected, through theirs."""

    def __init__(self, plan: Plan, space: Workspace, index: int, at_once: int) -> None:
        """Before block ``index``, from what the workspace keeps; ``at_once``: tokens of one pass."""
        self.plan, self.space, self.at_once = plan, space, at_once
        self.skeleton = Skeleton(Path(plan.facts.path), plan.device)
        self.skeleton.load_outside()
        states = space.activations(index) if index else {}
        history = space.finished_blocks()[index - 1].overflow if index else None
        self.activations = Activations(
            self.skeleton, plan.tokens, states.get("hidden"), at_once=at_once, history=history
        )
        corrected, rounded = plan.recipe.targets == "corrected", plan.target.embeddings
        self.original = self.activations.twin(states.get("original")) if corrected else None
        if rounded and not index:  # what blocks will read
            round_outer_(self.skeleton.model, rounded)
            read = Activations(self.skeleton, plan.tokens, at_once=at_once)
            self.activations = self.activations.twin(read.hidden)  # at the places that the original's stand at, too
        self.skeleton.release_outside()

    def take(self, index: int, trained: dict[str, Tensor], *, anew: bool) -> None:
        """Let block ``index`` be what it was trained to be, by name; ``anew``: from here on that is the aim."""
        within = f"{self.skeleton.prefix}.{index}."
        self.skeleton.instead = {name: tensor for name, tensor in trained.items() if name.startswith(within)}
        if anew and self.original:
            self.original = self.activations.twin()

    def states(self) -> dict[str, Tensor]:
        """What ``Workspace.commit`` keeps of it."""
        return {"hidden": self.activations.hidden} | ({"original": self.original.hidden} if self.original else {})

    def leave(self) -> None:
        """Give the memory back."""
        del self.skeleton, self.activations, self.original
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
