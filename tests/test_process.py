"""A worker gives way to the page, and the session it runs in, too."""

import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
GROUPED = AUTOGROUP.exists() and bool(AUTOGROUP.read_text().strip())  # empty where a container groups by itself
TOLD = """
from quip_engine.process import give_way
import os, pathlib
give_way()
print(os.nice(0), pathlib.Path("/proc/self/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not GROUPED, reason="this kernel shares its time without groups of sessions")
@pytest.mark.parametrize("alone", [True, False])
def test_it_gives_way_with_its_own_session_and_leaves_others_alone(alone):
    before = AUTOGROUP.read_text().split()[-1]
    told = subprocess.run(
        [sys.executable, "-c", TOLD], start_new_session=alone, capture_output=True, text=True, check=False
    )
    assert told.stdout.split() == ["5", "5" if alone else before], told.stderr
