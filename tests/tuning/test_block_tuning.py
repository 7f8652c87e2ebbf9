"""Tuning within a block: held-out outputs come nearer, bits repeat, the original stays as it was."""

from pathlib import Path

import pytest
import torch
from helpers import made_up_text, tiny_model

from quip_engine import events
from quip_engine.activations import Activations
from quip_engine.block_work import quantized_modules
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig, TuningConfig
from quip_engine.errors import Stopped
from quip_engine.files import sha256
from quip_engine.layer import quantize_weight
from quip_engine.linear import QuantizedLinear
from quip_engine.methods.registry import resolve
from quip_engine.pipeline import quantize_model
from quip_engine.skeleton import Skeleton
from quip_engine.tuning.block import BlockObjective, outputs_of, own_parameters, tune_block


def never():
    return False


def job_for(tmp_path, model, out="out", **changes):
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(2000))
    calibration = CalibrationConfig(str(text), samples=24, seqlen=24)
    usual = {"calibration": calibration, "threads": 1, "tuning": TuningConfig(("block",))}
    return JobConfig(str(model), str(tmp_path / out), **{**usual, **changes})


def run(job, workspace, stop=never):
    return list(quantize_model(job, workspace, stop))


def digests(folder):
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir())}


@pytest.mark.parametrize(("method", "family"), [("quip#", "llama"), ("qtip", "gpt2"), ("icquant", "opt")])
def test_outputs_come_nearer_before_each_group_but_the_first(tmp_path, method, family):
    job = job_for(tmp_path, tiny_model(tmp_path, family), recipe=RecipeConfig(method, 2))
    tuned = [e for e in run(job, tmp_path / "work") if isinstance(e, events.BlockTuned)]
    assert [e.block for e in tuned] == [0, 0, 0, 1, 1, 1]
    assert len({name for e in tuned for name in e.names}) in (3, 4)
    assert all(e.loss <= e.loss_before for e in tuned)
    gain = [e.loss / e.loss_before for e in tuned]
    assert sum(gain) / len(gain) < 0.95  # 0.87, 0.78, 0.71


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    model = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    run(job_for(tmp_path, model, "whole"), tmp_path / "work-whole")
    job, asked = job_for(tmp_path, model), 0

    def stop():
        nonlocal asked
        asked += 1
        return asked > 40

    with pytest.raises(Stopped) as stopped:
        run(job, tmp_path / "work", stop)
    assert stopped.value.args[0] in (0, 1)
    run(job, tmp_path / "work")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    run(job_for(tmp_path, model, "plain", tuning=TuningConfig()), tmp_path / "work-plain")
    assert digests(tmp_path / "plain") != digests(tmp_path / "whole")


def first_block(tmp_path):
    """A block with one packed layer, what it reads, and what the original gives."""
    skeleton = Skeleton(tiny_model(tmp_path, "llama"), torch.device("cpu"))
    skeleton.load_outside()
    tokens = torch.randint(0, 256, (12, 16), generator=torch.Generator().manual_seed(0))
    activations = Activations(skeleton, tokens, at_once=32)
    block = skeleton.load_block(0)
    outputs = outputs_of(block, 0, activations)
    layer = block.self_attn.v_proj
    own_parameters(block)
    packed = quantize_weight(layer.weight, torch.eye(32), resolve(RecipeConfig("icquant", 2)))
    block.self_attn.v_proj = QuantizedLinear.from_quantized(packed)
    return block, activations, outputs


def test_the_block_afterwards_is_the_one_that_was_judged(tmp_path):
    block, activations, outputs = first_block(tmp_path)
    objective = BlockObjective(block, 0, activations, outputs)
    assert (objective.pass_windows, objective.windows, objective.judging) == (2, 8, 4)
    found = tune_block(objective, torch.bfloat16, 1e-2, 0, never)
    assert found.after < found.before
    error = (outputs_of(block, 0, activations) - outputs)[8:].square().mean() * objective.scale
    assert float(error) == pytest.approx(found.after, rel=1e-4)
    assert not any(p.requires_grad for p in block.parameters())
    ((name, layer),) = quantized_modules(block)
    assert (name, layer.levels.dtype) == ("self_attn.v_proj", torch.float16)
    norm = block.input_layernorm.weight
    assert torch.equal(norm, norm.bfloat16().float())


def test_what_the_original_shares_is_left_alone(tmp_path):
    block, activations, outputs = first_block(tmp_path)
    before = {name: p for name, p in block.named_parameters() if "v_proj" not in name}
    values = {name: p.clone() for name, p in before.items()}
    tune_block(BlockObjective(block, 0, activations, outputs), torch.float32, 3e-2, 0, never)
    assert all(torch.equal(p, values[name]) for name, p in before.items())
    assert not any(torch.equal(p, values[name]) for name, p in block.named_parameters() if "norm" in name)


def test_too_few_windows_are_said_and_not_tuned_on(tmp_path):
    model = tiny_model(tmp_path, "llama")
    job = job_for(tmp_path, model, calibration=CalibrationConfig(str(tmp_path / "text.txt"), samples=1, seqlen=24))
    found = run(job, tmp_path / "work")
    assert "TUNING_SMALL" in [e.code for e in found if isinstance(e, events.Warned)]
    assert not [e for e in found if isinstance(e, events.BlockTuned)]
