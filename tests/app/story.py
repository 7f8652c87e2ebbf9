"""A run told in events: what a worker would write, for tests that need no worker."""

from __future__ import annotations

from pathlib import Path

from quip_engine import events
from quip_engine.config import JobConfig
from quip_engine.runs import EventLog, Run, Store

PROJECTIONS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
BLOCKS = 3
SHAPE = (64, 32)


def layer_names(blocks: int = BLOCKS, projections: tuple[str, ...] = PROJECTIONS) -> list[dict]:
    return [
        {"name": f"model.layers.{b}.{p}", "block": b, "projection": p.split(".")[-1], "shape": list(SHAPE)}
        for b in range(blocks)
        for p in projections
    ]


def started(names: list[dict], **changes) -> events.RunStarted:
    recipe = {"method": "quip#", "bits": 2, "transform": {"name": "hadamard"}}
    recipe |= {"codebook": {"name": "e8p"}, "rounding": {"name": "ldlq"}}
    calibration = {"source": "bundled", "samples": 8, "seqlen": 16, "windows": [8, 16]}
    blocks = 1 + max(n["block"] for n in names)
    values = {"model": "/models/tiny", "architecture": "LlamaForCausalLM", "recipe": recipe, "calibration": calibration}
    values |= {"blocks": blocks, "layers": names, "output_bytes": 10_000, "seed": 0, "device": "cpu"}
    return events.RunStarted(**{**values, **changes})


def layer(name: dict, loss: float = 0.01, **changes) -> events.LayerQuantized:
    values = {"name": name["name"], "block": name["block"], "projection": name["projection"], "shape": SHAPE}
    values |= {"bits_per_weight": 2.1, "rel_proxy": loss, "rel_mse": 0.1, "mu_w_before": 12.0, "mu_w_after": 4.5}
    values |= {"mu_h_before": 9.0, "mu_h_after": 4.0, "seconds": 0.5}
    return events.LayerQuantized(**{**values, **changes})


def tell(store: Store, loss: float = 0.01, model: str = "/models/tiny") -> tuple[Run, EventLog, list[dict]]:
    """A run with its first two blocks done; the log stays open for more."""
    run = store.create(JobConfig(model, str(store.home / "out")))
    log, names = EventLog(run.directory), layer_names()
    log.append(events.PhaseChanged("check"))
    log.append(started(names, model=model))
    log.append(events.PhaseChanged("quantize"))
    for name in names:
        if name["block"] < 2:
            log.append(layer(name, loss))
            if name["name"].endswith("down_proj"):
                log.append(events.BlockSaved(name["block"], 1000, "0" * 64, 1.0, 500.0))
    return run, log, names


def tell_finished(home: Path, original: Path, made: Path) -> Run:
    """A run that is done: what it made of ``original`` lies in ``made``."""
    store = Store(home)
    run = store.create(JobConfig(str(original), str(made)))
    finished = events.RunFinished(str(made), "quip#", 2, 2.0, 1, 1.0, 1.0, 0.01)
    store.update(run.id, status="done", started=1.0, finished=2.0, result=events.to_json(finished))
    return store.get(run.id)
