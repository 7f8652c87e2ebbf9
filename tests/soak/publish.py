"""R5: who reads a model folder a thousand times a second never sees a part of it.

python tests/soak/publish.py [--fast] [--publishes 50]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from soak import Row, arguments, report
from workers import forked, scratch, tiny_job, wait

from quip_engine.checkpoint import MANIFEST, assemble, write_tensors

LOOKS_A_SECOND = 1000
CONFIG = {"quant_method": "quip", "format_version": 1, "method": "quip#", "bits": 2, "layers": {}, "formats": []}


def read(out: Path, looks: Path) -> None:
    """Look until told to end; what was seen, as [looks, whole, in parts]."""
    seen = [0, 0, 0]
    signal.signal(signal.SIGTERM, lambda *_: (looks.write_text(json.dumps(seen)), os._exit(0)))
    while True:
        began = time.monotonic()
        seen[0] += 1
        try:
            descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            pass
        else:
            seen[1 if _whole(descriptor) else 2] += 1
            os.close(descriptor)
        time.sleep(max(0.0, 1 / LOOKS_A_SECOND - (time.monotonic() - began)))


def _whole(folder: int) -> bool:
    try:
        with os.fdopen(os.open(MANIFEST, os.O_RDONLY, dir_fd=folder), "rb") as file:
            files = json.load(file)["files"]
        sizes = {name: os.stat(name, dir_fd=folder).st_size for name in os.listdir(folder)}
    except (OSError, ValueError):
        return False
    sizes.pop(MANIFEST)
    return sizes == {name: entry["bytes"] for name, entry in files.items()}


def main() -> int:
    options = arguments(__doc__, publishes={"type": int, "default": 50})
    count = 5 if options.fast else options.publishes
    row = Row("R5", f"a reader at 1 kHz over {count} publishes sees no folder in parts")
    with scratch() as folder:
        source, out, looks = Path(tiny_job(folder).model), folder / "out", folder / "looks"
        shards = [folder / f"shard-{number}" for number in range(4)]
        for number, shard in enumerate(shards):
            write_tensors(shard, {f"layer.{number}": torch.ones(250_000)})
        reader = forked(lambda: read(out, looks))
        for number in range(count):
            assemble(source, out, shards, CONFIG, {"model": "tiny", "bits_per_weight": 2.0, "number": number})
            time.sleep(0.02)
            out.rename(folder / f"gone-{number}")  # out of the way, whole, for the reader that has it open
        os.kill(reader, signal.SIGTERM)
        wait(reader)
        seen, whole, partial = json.loads(looks.read_text())
        return report(
            [row.close(f"{seen} looks, {whole} at whole folders, {partial} at parts", held=whole > 0 == partial)]
        )


if __name__ == "__main__":
    sys.exit(main())
