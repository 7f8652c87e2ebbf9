"""R24: hours of small jobs and chat in one studio leave no process, file or memory behind.

python tests/soak/long.py [--fast] [--minutes 480]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from soak import DEMO, Row, Server, arguments, report  # finds what follows

# isort: split

import psutil
from gradio_client import Client
from workers import home_in, tiny_job

from quip_engine.runs import Store, start
from quip_engine.runs.removal import delete

WARM = 3  # jobs before the first measurement: imports, caches, models kept for the next question
GROWTH, TEMP = 1.05, 10**9  # most: of resident memory, and bytes of temporary files


def measured(server: Server) -> dict[str, float]:
    """Of the studio's own process and those it has started."""
    process = psutil.Process(server.process.pid)
    children = process.children(recursive=True)
    return {
        "rss": process.memory_info().rss,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
        "children": len(children),
    }


def one_job(folder: Path, home: Path, number: int) -> None:
    run = start(tiny_job(folder, f"out-{number}"), home)
    while (now := Store(home).get(run.id)).alive or now.finished is None:
        time.sleep(0.2)
    if now.status != "done":
        raise RuntimeError(f"{run.id} is {now.status}: {now.error}")
    delete(run.id, home, checkpoint=True)


def main() -> int:
    options = arguments(__doc__, minutes={"type": float, "default": 480.0})
    minutes = 0.7 if options.fast else options.minutes
    row = Row(
        "R24", f"{minutes:g} minutes: memory +5 % at most, no zombies, no more open files, 1 GB of temporary files"
    )
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        temporary = folder / "temporary"
        temporary.mkdir()
        with Server(home=home_in(folder), environment={"TMPDIR": str(temporary)}) as server:
            client = Client(server.url, headers={"cookie": server.cookie}, verbose=False)
            ends, number, first = time.monotonic() + 60 * minutes, 0, {}
            while time.monotonic() < ends or number <= WARM:
                one_job(folder, server.home, number)
                client.predict(model=str(DEMO), prompt=f"Number {number}", max_tokens=16, api_name="/generate")
                number += 1
                if number == WARM:
                    first = measured(server)
            last = measured(server)
        used = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        growth = last["rss"] / first["rss"]
        if growth > GROWTH and not options.fast:  # in so short a time caches still fill
            row.problems.append(f"memory grew to {growth:.2f} times {first['rss'] / 1e6:.0f} MB")
        if last["zombies"] or last["children"] > first["children"]:
            row.problems.append(f"processes: {last}")
        if last["files"] > first["files"] + 2:  # connections of the page come and go
            row.problems.append(f"open files: {first['files']} at first, {last['files']} at last")
        if used > TEMP:
            row.problems.append(f"{used / 1e6:.0f} MB of temporary files")
        shutil.rmtree(folder / "tiny-llama", ignore_errors=True)
    found = f"{number} jobs and answers; memory x {growth:.3f}, open files {first['files']} -> {last['files']}"
    return report([row.close(f"{found}, {last['zombies']} zombies, {used / 1e6:.1f} MB of temporary files")])


if __name__ == "__main__":
    sys.exit(main())
