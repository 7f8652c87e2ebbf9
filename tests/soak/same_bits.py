"""R26: the same job on the same machine writes the same bytes, time after time.

python tests/soak/same_bits.py [--fast] [--times 10]
"""

from __future__ import annotations

import sys
from pathlib import Path

from soak import Row, arguments, report
from workers import digests, forked, quantize, scratch, tiny_job, wait

RECIPES = {
    "quip#": {},
    "qtip": {"options": {"L": 8}},
    "icquant": {},
    "waterfill": {"options": {"L": 8}},
}


def main() -> int:
    options = arguments(__doc__, times={"type": int, "default": 10})
    times = 2 if options.fast else options.times
    row = Row("R26", f"{times} of {times} runs write the same bytes")
    with scratch() as folder:
        methods = list(RECIPES)[: 2 if options.fast else None]
        for method in methods:
            jobs = [tiny_job(folder, f"{method}-{n}", blocks=2, method=method, **RECIPES[method]) for n in range(times)]
            for job in jobs:
                if status := wait(forked(lambda: quantize(job, folder / "work"), quiet=False)):  # noqa: B023
                    row.problems.append(f"{job.out}: exit status {status}")
            first, *others = [digests(Path(job.out)) for job in jobs]
            row.problems += [f"{method}: run {n} differs" for n, other in enumerate(others, 2) if other != first]
        return report([row.close(f"{len(methods)} methods, {times} runs each, {len(row.problems)} that differ")])


if __name__ == "__main__":
    sys.exit(main())
