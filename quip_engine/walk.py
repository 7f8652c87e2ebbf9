"""A model and the calibration states on their way through it, before one of its blocks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from quip_engine.activations import Activations
from quip_engine.embedding import round_outer_
from quip_engine.finite import check_states
from quip_engine.plan import Plan
from quip_engine.skeleton import Skeleton
from quip_engine.workspace import Workspace


class Walk:
    """``activations`` went through the quantized blocks; ``original``, where targets are corrected, through theirs."""

    def __init__(self, plan: Plan, space: Workspace, index: int, at_once: int) -> None:
        """Before block ``index``, from what the workspace keeps; ``at_once``: tokens of one pass."""
        self.at_once = at_once
        self.skeleton = Skeleton(Path(plan.facts.path), plan.device)
        self.skeleton.load_outside()
        states = space.activations(index) if index else {}
        self.activations = Activations(self.skeleton, plan.tokens, states.get("hidden"), at_once=at_once)
        check_states(self.activations.hidden, "the embeddings")
        corrected, rounded = plan.recipe.targets == "corrected", plan.target.embeddings
        self.original = self.activations.twin(states.get("original")) if corrected else None
        if rounded and not index:  # what blocks will read
            round_outer_(self.skeleton.model, rounded)
            self.activations = Activations(self.skeleton, plan.tokens, at_once=at_once)
        self.skeleton.release_outside()

    def states(self) -> dict[str, Tensor]:
        """What ``Workspace.commit`` keeps of it."""
        return {"hidden": self.activations.hidden} | ({"original": self.original.hidden} if self.original else {})

    def leave(self) -> None:
        """Give the memory back."""
        del self.skeleton, self.activations, self.original
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
