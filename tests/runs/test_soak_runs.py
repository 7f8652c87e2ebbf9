"""The soak commands of runs, each in its short form: what they promise holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak"
COMMANDS = ("kills", "disk", "bitrot", "publish", "history", "same_bits", "numerics", "memory", "folders", "estimates")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_promise_holds(name):
    command = [sys.executable, str(SOAK / f"{name}.py"), "--fast"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    rows = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else []
    assert rows and all(row["held"] for row in rows), ended.stderr[-3000:]
    assert ended.returncode == 0
