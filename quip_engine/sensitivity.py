"""What an error of a layer costs the model's predictions: one backward pass, one block in memory at a time.

    d KL  ~  1/2 sum_t E_y |E x_t . g_t|^2       g_t = d(-log p(y)) / d(output of the layer at token t),   y ~ p

The Hessian of the KL divergence is the Fisher matrix, the mean of g g^T over labels drawn from the model itself. With
inputs and outputs taken as independent, what a layer needs of it (GuidedQuant, arXiv 2505.07004, section 3, in one
group) is a weight for every token, a weight for every output, and how much the layer counts among the others:

    w_t = |g_t|^2 / mean_s |g_s|^2      h_i = mean_t g_ti^2 / mean_j mean_t g_tj^2,  the diagonal of G (``importance``)
    v   = log2 of the geometric mean of the LDL diagonal of mean_t |g_t|^2 x_t x_t^T
          + 2 log2 mean_i(h_i^(1/2) rms of row i) - log2 m

G as a whole is measured where it is asked for, of narrow layers.

What APTQ (arXiv 2402.14866) goes by, the mean trace of each layer's Hessian, is a by-product.

4^-b 2^v is what the layer costs at b bits per weight, rounded with feedback (the product of the LDL diagonal is det H,
whatever rotates H) and with rows scaled as ``transforms.hadamard`` does. Forward, the input of every block is kept on
disk; then the gradient goes back through the blocks, each computed once more. A layer that sees some of the tokens
only, as an expert does, has no w; the others' share in its inputs is what counts in v.

| text | here           |
|------|----------------|
| w    | ``tokens``     |
| h, G | ``outputs``    |
| v    | ``value``      |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quip_engine import events
from quip_engine.activations import Activations, predictions
from quip_engine.architecture import linear_modules, weight_of
from quip_engine.errors import Stopped, fail
from quip_engine.linalg.hessian import Hessian, cholesky_
from quip_engine.overflow import History
from quip_engine.plan import Plan
from quip_engine.process import return_small_memory
from quip_engine.skeleton import Skeleton
from quip_engine.transforms.importance import is_narrow
from quip_engine.workspace import GRADIENT, Workspace

DAMPING = 0.02  # of H in the value of a layer
SMALLEST = 0.02  # share of all outputs' mean that every output counts in any case: gradients of a text are a sample
TRACES = "traces"  # of layers, in a workspace
LOGITS = 1 << 21  # at once: the vocabulary may be large
OF_LABELS = 1 << 20  # apart from the seeds of windows


@dataclass(frozen=True)
class Sensitivity:
    """Of one layer; ``tokens`` is None where it does not see all of them."""

    tokens: Tensor | None  # (samples, length), mean 1
    outputs: Tensor  # h: (m,), mean 1; or G: (m, m), its diagonal of mean 1
    value: float  # -inf where no gradient came
    trace: float  # log2 of the mean trace of E |g|^2 x x^T, over its weights; -inf likewise


def measure(plan: Plan, space: Workspace, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Measure every layer and keep the result in ``space``. Raises ``NO_GRADIENT`` and ``Stopped``.

    After each block all that the next one needs is kept, too: a later process goes on from there to the same bits.
    """
    if space.kept(GRADIENT) is None:
        yield from _forward(plan, space, stop)
    yield from _backward(plan, space, stop)
    values: dict[str, float] = {}
    traces: dict[str, float] = {}
    for index in reversed(range(plan.facts.blocks)):
        found = space.measured(index)
        values |= found["values"]
        traces |= found["traces"]
    space.keep(TRACES, record=traces)
    space.finish_sensitivities(values)


def _forward(plan: Plan, space: Workspace, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Keep the input of every block, and the gradient behind the last one."""
    blocks, kept = plan.facts.blocks, space.states_kept()
    hidden, history = space.states(kept - 1) if kept else (None, None)
    skeleton, activations = _begin(plan, hidden, history)
    for index in range(max(0, kept - 1), blocks):
        if stop():
            raise Stopped(0)
        yield events.PhaseChanged("calibrate", f"forward: block {index + 1} of {blocks}")
        if index >= kept:
            space.keep_states(index, activations.hidden, activations.history)
        activations.advance(skeleton.load_block(index), index)
        skeleton.release_block(index)
    gradient = head_gradient(skeleton, plan.tokens, activations.hidden, plan.job.seed)
    space.keep_gradient(blocks, gradient, activations.history)


def _backward(plan: Plan, space: Workspace, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Keep the sensitivities of every block, from the last one that has none."""
    blocks, (start, gradient, history) = plan.facts.blocks, space.gradient()
    gradient = gradient.to(plan.device)
    skeleton, activations = _begin(plan, gradient, history)  # for how the model calls its blocks
    skeleton.release_outside()
    for index in reversed(range(start)):
        if stop():
            raise Stopped(0)
        yield events.PhaseChanged("calibrate", f"backward: block {blocks - index} of {blocks}")
        activations.hidden = space.states(index)[0].to(plan.device)
        gathered = gather(skeleton.load_block(index), index, activations, gradient, plan.recipe.two_sided)
        skeleton.release_block(index)  # before the room for it goes to H of its layers
        return_small_memory()
        found = sensitivities(gathered, plan.tokens.numel())
        space.keep_sensitivities(index, _stored(found), _worth(found, f"{skeleton.prefix}.{index}."))
        space.keep_gradient(index, gradient, history)


def _begin(plan: Plan, hidden: Tensor | None, history: History | None) -> tuple[Skeleton, Activations]:
    """A model without blocks, and states before one of them; without any: at the embeddings."""
    skeleton = Skeleton(Path(plan.facts.path), plan.device)
    skeleton.load_outside()
    return skeleton, Activations(skeleton, plan.tokens, hidden, history=history)


def head_gradient(skeleton: Skeleton, tokens: Tensor, hidden: Tensor, seed: int) -> Tensor:
    """The gradient of the sampled labels' loss by ``hidden``: (samples, length, width), what the last block gave.

    By the logits it is p less the label's indicator.
    """
    generator = torch.Generator().manual_seed(OF_LABELS + seed)
    windows = max(1, LOGITS // (tokens.shape[1] * skeleton.config.get_text_config().vocab_size))
    gradient = torch.empty_like(hidden)
    for part, inputs, into in zip(*(x.split(windows) for x in (tokens, hidden, gradient)), strict=True):
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            logits = predictions(skeleton, part, leaf)
        p = logits.detach().softmax(-1)
        labels = drawn_labels(p.flatten(0, 1), generator).view(*part.shape, 1)
        p.scatter_add_(-1, labels, p.new_tensor(-1.0).expand(labels.shape))
        into.copy_(_gradient(logits, leaf, p, "The head"))
    return gradient


def drawn_labels(p: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row of probabilities p: (T, vocabulary), drawn from them: (T, 1) int64."""
    draw = torch.rand(len(p), 1, generator=generator).to(p.device)
    below = p.cumsum(1)
    return torch.searchsorted(below, draw * below[:, -1:]).clamp_max(p.shape[1] - 1)


def gather(
    block: nn.Module, index: int, activations: Activations, gradient: Tensor, together: bool = False
) -> dict[str, Gathered]:
    """Run a block forward and back, batch by batch; returns what came of it for every layer, by path.

    ``gradient``: (samples, length, width) by the outputs of the block; becomes, in place, that by its inputs.
    ``together``: whether G is asked for, as a whole.
    """
    samples, length, _ = activations.hidden.shape
    layers = linear_modules(block)
    gathered = {name: Gathered(weight_of(module), samples, length, together) for name, module in layers.items()}
    handles = [gathered[name].watch(module) for name, module in layers.items()]
    try:
        for place, call in activations.calls(index):
            for layer in gathered.values():
                layer.place = place
            leaf = activations.hidden[place].detach().requires_grad_()
            with torch.enable_grad():
                gradient[place] = _gradient(call(block, leaf), leaf, gradient[place], f"Block {index}")
    finally:
        for handle in handles:
            handle.remove()
    return gathered


def sensitivities(gathered: dict[str, Gathered], tokens: int) -> dict[str, Sensitivity]:
    """Of every layer that a gradient reached, by path; nothing is left in ``gathered``. ``tokens``: how many in all."""
    reached = [name for name, layer in gathered.items() if layer.hessian.tokens]
    return {name: gathered.pop(name).result(tokens) for name in reached}


def _gradient(output: Tensor, leaf: Tensor, by_output: Tensor | None, name: str) -> Tensor:
    try:
        (found,) = torch.autograd.grad(output, leaf, by_output)
    except (RuntimeError, NotImplementedError) as error:
        fail("NO_GRADIENT", details=str(error), name=name, reason="it cannot be run backwards")
    if not torch.isfinite(found).all():
        fail("NO_GRADIENT", name=name, reason="NaN or infinite values came")
    return found


class Gathered:
    """What is summed up over the batches for one linear layer of the weight W: (m, n)."""

    def __init__(self, W: Tensor, samples: int, length: int, together: bool) -> None:
        (m, n), device = W.shape, W.device
        self.rows = torch.linalg.vector_norm(W, dim=1) / math.sqrt(n)
        self.tokens = torch.zeros(samples, length, device=device)
        self.outputs = torch.zeros(m, dtype=torch.float64, device=device)
        self.hessian = Hessian(n, device)
        self.together = Hessian(m, device) if together and is_narrow(m, n) else None
        self.sees_all = True
        self.place = slice(0)

    def watch(self, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def on_output(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda g: self.take(args[0].detach(), g))

        return module.register_forward_hook(on_output)

    def take(self, x: Tensor, g: Tensor) -> None:
        """Inputs x: (..., n) of some tokens and the gradients g: (..., m) by the outputs."""
        squares = g.reshape(-1, g.shape[-1]).float().square()
        norms = squares.sum(1)
        self.outputs += squares.sum(0, dtype=torch.float64)
        if self.together is not None:
            self.together.add(g)
        self.hessian.add(x, norms)
        into = self.tokens[self.place]
        self.sees_all = self.sees_all and norms.numel() == into.numel()
        if self.sees_all:
            into += norms.view_as(into)

    def result(self, tokens: int) -> Sensitivity:
        mean = self.outputs.mean()
        if mean == 0:  # nothing that this layer gives reaches the predictions
            return Sensitivity(None, torch.ones(len(self.outputs)), -math.inf, -math.inf)
        weights = (self.tokens / self.tokens.mean()).cpu() if self.sees_all else None
        share = math.log2(self.hessian.tokens / tokens)
        each = (SMALLEST + (1 - SMALLEST) * self.outputs / mean).float()
        value, trace = self._value_and_trace(each)
        outputs = each if self.together is None else _mixed(self.together.matrix())
        return Sensitivity(weights, outputs.cpu(), value + share, trace + share)

    def _value_and_trace(self, outputs: Tensor) -> tuple[float, float]:
        H, spread = self.hessian.matrix(), float((outputs.sqrt() * self.rows).mean())
        if spread == 0 or not H.diagonal().any():
            return -math.inf, -math.inf
        trace = math.log2(float(H.diagonal().double().mean()) / len(outputs))
        cholesky_(H, DAMPING, "the layer")
        value = 2 * float(H.diagonal().double().log2().mean()) + 2 * math.log2(spread) - math.log2(len(outputs))
        return value, trace


def _mixed(G: Tensor) -> Tensor:
    """G: (m, m), in place, with a mean diagonal of 1, of which every output has SMALLEST in any case."""
    G *= (1 - SMALLEST) / G.diagonal().mean()
    G.diagonal().add_(SMALLEST)
    return G


def _stored(found: dict[str, Sensitivity]) -> dict[str, Tensor]:
    tokens = {f"{name}.tokens": layer.tokens for name, layer in found.items() if layer.tokens is not None}
    return tokens | {f"{name}.outputs": layer.outputs for name, layer in found.items()}


def _worth(found: dict[str, Sensitivity], prefix: str) -> dict[str, dict[str, float]]:
    """Values and traces of the layers that a gradient reached, by module path."""
    reached = {prefix + name: layer for name, layer in found.items() if layer.value > -math.inf}
    values = {name: layer.value for name, layer in reached.items()}
    return {"values": values, "traces": {name: layer.trace for name, layer in reached.items()}}
