"""S13: no version with a known hole: floors that are always checked, and the advisories of the package index.

    python tests/soak/audit.py [--fast]

The full form asks ``pip-audit`` (``pip install .[audit]``) about every installed package. Exit status 2 says that it
could not be asked, for want of the program or of a network; nothing is known then. The short form checks floors.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import version

from soak import Row, arguments, report

# The first version without the holes that are known of it.
FLOORS = {
    "gradio": (6, 20),
    "transformers": (5, 3),
    "torch": (2, 10),
    "jinja2": (3, 1, 6),
}
NOT_ASKED = 2  # exit status
SECONDS = 300


def floors() -> Row:
    wanted = ", ".join(f"{name} >= {'.'.join(map(str, floor))}" for name, floor in FLOORS.items())
    row = Row("S13", f"no version with a known high or critical hole: {wanted}")
    found = {name: tuple(int(n) for n in re.findall(r"\d+", version(name))[:3]) for name in FLOORS}
    row.problems = [f"{name} {found[name]}" for name, floor in FLOORS.items() if found[name] < floor]
    return row.close(", ".join(f"{name} {version(name)}" for name in FLOORS))


def advisories() -> Row:
    """What the index knows of all that is installed. ``result`` is empty where nobody could be asked."""
    row = Row("S13", "no installed package with an advisory")
    if importlib.util.find_spec("pip_audit") is None:
        row.problems = ["pip-audit is not installed: pip install .[audit]"]
        return row
    call = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        ended = subprocess.run(call, capture_output=True, text=True, check=False, timeout=SECONDS)
        packages = json.loads(ended.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        row.problems = [f"the index could not be asked: {type(error).__name__}"]
        return row
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        row.problems = [f"the index could not be asked about any of {len(packages)} packages"]
        return row
    row.problems = [f"{p['name']} {p.get('version')}: {v['id']}" for p in packages for v in p.get("vulns", [])]
    left = f"; not known to the index: {', '.join(unknown)}" if unknown else ""
    return row.close(f"{len(packages)} packages, {len(row.problems)} advisories{left}")


def main() -> int:
    options = arguments(__doc__)
    rows = [floors()] if options.fast else [floors(), advisories()]
    asked = all(row.result for row in rows)
    for row in rows:
        if not row.result:
            row.close("not asked", held=False)
    return report(rows) if asked else report(rows) and NOT_ASKED


if __name__ == "__main__":
    sys.exit(main())
