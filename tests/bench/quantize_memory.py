"""Peak memory of a run against the depth of the model: ``python tests/bench/quantize_memory.py``

Makes random models of the shape of Llama, or of Mixtral, that differ only in their number of blocks, quantizes each as
a worker would, and prints the peak of each process above the same job on a model of 32-wide blocks (Python, torch,
transformers, thread pools, tables). The bound is three times the largest block in float32, plus the calibration
activations; with experts, each with a Hessian of its own, it is a little more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

PEAK = "from quip_engine.devices import peak_rss_mb; print(peak_rss_mb())"
RUN = """
import sys
from pathlib import Path
from quip_engine.process import return_freed_memory, wait_patiently
wait_patiently()
return_freed_memory()
from quip_engine.config import CalibrationConfig, JobConfig
from quip_engine.pipeline import quantize_model
model, out, text, samples, seqlen = sys.argv[1:]
job = JobConfig(model, out, calibration=CalibrationConfig(text, int(samples), int(seqlen)))
for event in quantize_model(job, Path(out + '-work'), lambda: False):
    pass
"""


def peak_mb(code: str, *arguments: str) -> float:
    """Peak resident megabytes of a fresh process that runs ``code``."""
    command = [sys.executable, "-c", f"import sys\n{code}\n{PEAK}", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--inner", type=int, default=2048)
    parser.add_argument("--experts", type=int, default=0, help="of a mixture, two for each token (default: none)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=64)
    options = parser.parse_args()

    import torch
    from helpers import made_up_text, tiny_model

    width, inner = options.width, options.inner
    family = "mixtral" if options.experts else "llama"
    block_mb = 4 * (4 * width * width + max(1, options.experts) * 3 * width * inner + 2 * width) / 1e6
    hidden_mb = 4 * options.samples * options.seqlen * width / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(made_up_text(8000))

        def peak_of(width: int, inner: int, blocks: int) -> float:
            heads = {"num_attention_heads": max(1, width // 64), "num_key_value_heads": max(1, width // 64)}
            shape = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": blocks, **heads}
            shape |= {"num_local_experts": options.experts} if options.experts else {}
            place = folder / f"{width}-{blocks}"
            model = tiny_model(place, family, dtype=torch.bfloat16, shard_size="500MB", **shape)
            arguments = (str(place / "out"), str(folder / "text.txt"), str(options.samples), str(options.seqlen))
            return peak_mb(RUN, str(model), *arguments)

        baseline = peak_of(32, 64, 1)
        print(f"baseline {baseline:.0f} MB, block {block_mb:.1f} MB in float32, activations {hidden_mb:.1f} MB")
        print(f"{'blocks':>6} {'peak MB':>8} {'above':>8} {'(above - activations) / block':>30}")
        for blocks in options.blocks:
            above = (peak := peak_of(width, inner, blocks)) - baseline
            print(f"{blocks:>6} {peak:>8.0f} {above:>8.0f} {(above - hidden_mb) / block_mb:>30.2f}", flush=True)


if __name__ == "__main__":
    main()
