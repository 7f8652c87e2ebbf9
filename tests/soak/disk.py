"""R3: disks that are full or broken, at every operation and for good.

python tests/soak/disk.py [--fast]
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from points import SUFFERED, by_disk, explore
from soak import Row, arguments, report
from workers import digests, home_in, scratch, strays, tiny_job, uninterrupted, wait, work_on

from quip_engine.config import CalibrationConfig
from quip_engine.runs import Store

NAMED = 2  # exit status of DISK_FULL and IO_ERROR


def failing(number: int) -> Callable[[], object]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def every_operation(folder: Path, expected: dict[str, str], step: int) -> Row:
    row = Row("R3", "ENOSPC, EIO, EDQUOT at every operation: named error, old state whole, nothing stray afterwards")
    faults = {name: failing(getattr(errno, name)) for name in ("ENOSPC", "EIO", "EDQUOT")}
    points = explore(tiny_job(folder, "points"), folder / "work-points", expected, by_disk(faults, step))
    for point in points:
        if not point.held or point.status not in (NAMED, SUFFERED):
            row.problems.append(str(point))
    suffered = sum(point.status == SUFFERED for point in points)
    named = sum(point.status == NAMED for point in points)
    return row.close(f"{named} named, {suffered} done in another way, of {len(points)}")


def small_disk(folder: Path) -> Row:
    """A worker with everything of its own on 3 MB; then the disk grows."""
    row = Row("R3", "everything on a disk of 3 MB: refused before, DISK_FULL during, resumed when it has grown")
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=False).returncode:
        return row.close("not allowed to mount here", held=True)
    try:
        home_in(disk)
        # 2 MB of states, of which there are three
        job = replace(tiny_job(folder), calibration=CalibrationConfig(str(folder / "long.txt"), 256, 64))
        (folder / "long.txt").write_text((folder / "calibration.txt").read_text() * 3)
        store, found = Store(), []
        run = store.create(replace(job, out=str(disk / "out")))
        found.append((wait(work_on(store, run)), (store.get(run.id).error or {}).get("error")))
        store.forget(run.id)
        run = store.create(replace(job, out=str(disk / "out"), force=True))
        found.append((wait(work_on(store, run)), (store.get(run.id).error or {}).get("error")))
        if found != [(NAMED, "DISK_FULL")] * 2:
            row.problems.append(f"ended with {found}")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        if (status := wait(work_on(store, run))) or store.get(run.id).status != "done":
            row.problems.append(f"resumed with {status}, {store.get(run.id).error}")
        row.problems += strays(disk)
        return row.close(f"{found[0][1]} before, {found[1][1]} during, then {store.get(run.id).status}")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def main() -> int:
    options = arguments(__doc__)
    with scratch() as folder:
        whole = uninterrupted(folder, 2)
        expected = digests(Path(whole.out))
        rows = [every_operation(folder, expected, 14 if options.fast else 1), small_disk(folder)]
        shutil.rmtree(whole.out)
        return report(rows)


if __name__ == "__main__":
    sys.exit(main())
