"""The main job: a model folder in, a packed checkpoint out, one decoder block in memory at a time.

    for each block:  load -> one H per shared input -> quantize each linear layer -> save -> pass the activations on

Every H comes from activations that already went through the quantized blocks before it (QuIP section 6), so later
layers are calibrated on what they will really see. The function yields events and never prints; what it needs to
continue after a crash is in its workspace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch

from quip_engine import events
from quip_engine.activations import BATCH_TOKENS
from quip_engine.block_work import BlockWork, Counts
from quip_engine.config import JobConfig
from quip_engine.devices import peak_gpu_mb, peak_rss_mb
from quip_engine.errors import Stopped, fail
from quip_engine.files import check_output, remove_leftovers
from quip_engine.plan import Plan, make_plan
from quip_engine.probe.folder import weight_files
from quip_engine.publish import is_published, mean_bits, publish
from quip_engine.room import check_room, refuse_gpu
from quip_engine.sensitivity import TRACES, measure
from quip_engine.targets import Allocation
from quip_engine.tuning.block import LEAST_PASSES
from quip_engine.tuning.cost import check_memory, kept_bytes, named_memory
from quip_engine.tuning.progressive import is_trained, trained, tune_ahead
from quip_engine.tuning.stages import tune
from quip_engine.walk import Walk
from quip_engine.workspace import FinishedBlock, Workspace

CHANCES = 4  # passes of a block with half the tokens each, where the memory of the GPU runs out


def quantize_model(job: JobConfig, workspace: Path, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Run a job to its end, from wherever its workspace says it is.

    Raises ``QuipError`` for anything a person can mend and ``Stopped`` (with the number of finished blocks) once
    ``stop()`` is true at the end of a layer. The workspace stays until ``RunFinished`` was taken.
    """
    started = time.perf_counter()
    torch.set_num_threads(job.threads or torch.get_num_threads())
    yield events.PhaseChanged("check")
    remove_leftovers(workspace)
    out, resumed = Path(job.out).absolute(), workspace.exists()
    plan = make_plan(job, resumed=resumed)
    with Workspace(workspace) as space:
        if not (resumed and is_published(space, out)):
            check_output(out, Path(plan.facts.path))
            remove_leftovers(out)
            if not job.force:
                check_room(plan, workspace, kept_bytes(plan))
            check_memory(plan)
            try:
                yield from _quantize(plan, space, stop)
            except torch.OutOfMemoryError:
                refuse_gpu(plan)
        yield events.PhaseChanged("done")
        yield _finished(plan, space, time.perf_counter() - started)
        space.clear()


def _quantize(plan: Plan, space: Workspace, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """From the first unfinished block to the published folder."""
    space.claim(plan.identity())
    done = space.finished_blocks()
    yield plan.run_started(len(done))
    notes = list(plan.warnings)
    if space.fell_back:
        notes.append(("CHECKPOINT_DAMAGED", f"{space.fell_back} was damaged: going on from block {len(done)}."))
    yield from (events.Warned(code, message) for code, message in notes)

    yield events.PhaseChanged("calibrate", f"{plan.tokens.numel()} tokens")
    weighted = plan.recipe.weighted
    if (weighted or plan.target.measured) and space.values() is None:
        yield from measure(plan, space, stop)
    shared = allocation(plan, space)
    if shared.bits:
        yield events.BitsAllocated(shared.rule, shared.bits, shared.asked, shared.expected)
    check_fallbacks(plan, done)  # no resume leads around it
    walk = Walk(plan, space, len(done), tokens_at_once(plan))
    yield events.PhaseChanged("quantize")
    for index in range(len(done), plan.facts.blocks):
        if stop():
            raise Stopped(len(done))
        with named_memory(plan):
            yield from tune_ahead(plan, space, index, stop)
        counts = Counts(space.sensitivities(index) if weighted else {}, shared.recipes, plan.recipe.mixing)
        walk, work = yield from _worked(walk, index, counts, stop)
        done.append(space.commit(index, work.tensors, walk.states(), work.record()))
        saved, rss, gpu = done[-1], peak_rss_mb(), peak_gpu_mb(plan.device)
        yield events.BlockSaved(index, saved.bytes, saved.path.name, saved.seconds, rss, gpu)
        check_fallbacks(plan, done)

    if not any(block.layers for block in done):
        first = next((reason for block in done for reason in block.skipped.values()), "It has no linear layers")
        fail("NOTHING_QUANTIZED", name=plan.facts.name, reason=first)
    with named_memory(plan):
        yield from tune(plan, space, stop)
    yield events.PhaseChanged("pack")
    done = space.finished_blocks()
    publish(plan, walk.skeleton, space, done, shared)


def tokens_at_once(plan: Plan) -> int:
    """Tokens that go through a block together; where it is tuned, some passes are left to be judged by."""
    most = BATCH_TOKENS[plan.device.type]
    return min(most, plan.tokens.numel() // LEAST_PASSES) if "block" in plan.job.tuning.stages else most


def _worked(
    walk: Walk, index: int, counts: Counts, stop: Callable[[], bool]
) -> Generator[events.Event, None, tuple[Walk, BlockWork]]:
    """Do a block, again with fewer tokens at once where the memory of the GPU runs out. Raises ``GPU_MEMORY``."""
    plan, space = walk.plan, walk.space
    for chance in range(CHANCES):
        if chance:
            walk = Walk(plan, space, index, max(1, walk.at_once // 2))
            yield events.Warned("GPU_MEMORY", f"Block {index} again, with {walk.at_once} tokens at once.")
        walk.take(index, trained(plan, space, index), anew=is_trained(space, index))
        work = BlockWork(plan, walk.skeleton, index, stop, counts, finished=index)
        if (yield from _fits(work, walk)):
            return walk, work
        del work  # it holds the block
        walk.leave()
    refuse_gpu(plan)


def _fits(work: BlockWork, walk: Walk) -> Generator[events.Event, None, bool]:
    """Do a block; whether the memory of the GPU was enough."""
    try:
        yield from work.run(walk.activations, walk.original)
    except torch.OutOfMemoryError:
        return False
    return True


def check_fallbacks(plan: Plan, done: list[FinishedBlock]) -> None:
    """Raises ``QUANT_UNSTABLE`` once more layers than the job allows were done in another way than asked."""
    names = [name for block in done for name in block.fallbacks]
    total = len(plan.facts.linear_layers)
    if len(names) > plan.job.fallbacks * total:
        reason = f"{len(names)} of {total} layers could not be done as asked, the first {names[0]}"
        fail("QUANT_UNSTABLE", name=plan.facts.name, reason=reason)


def allocation(plan: Plan, space: Workspace) -> Allocation:
    """What each layer gets, from what was measured; the same at every resume."""
    return plan.target.allocated(worths(plan, space))


def worths(plan: Plan, space: Workspace) -> dict[str, float]:
    """What the rule of a plan goes by, as far as it was measured: log2 of what an error of a layer costs."""
    traces = space.kept(TRACES)
    values = traces.record if plan.target.rule == "trace" and traces else space.values()
    return values or {}


def _finished(plan: Plan, space: Workspace, seconds: float) -> events.RunFinished:
    done, shared = space.finished_blocks(), allocation(plan, space)
    losses = [layer["rel_proxy"] for block in done for layer in block.layers]
    out = Path(plan.job.out).absolute()
    return events.RunFinished(
        out=str(out),
        method=plan.job.recipe.method,
        bits=plan.job.recipe.bits,
        bits_per_weight=mean_bits(done),
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        seconds=seconds,
        peak_rss_mb=peak_rss_mb(),
        mean_rel_proxy=sum(losses) / max(1, len(losses)),
        skipped=[name for block in done for name in block.skipped],
        weight_bytes=sum(path.stat().st_size for path in weight_files(out)),
        asked_bytes=shared.asked,
        rule=shared.rule,
        allocation=shared.bits,
    )
