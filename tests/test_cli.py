"""What the command line does where nobody reads what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quip_engine.cli import main

QUIET = 128 + 13  # as shells show an end by SIGPIPE
CASES = {
    "result": (["runs", "--json"], "stdout"),
    "error": (["inspect", "/nowhere", "--json"], "stdout"),
    "text for people": (["inspect", "/nowhere"], "stderr"),
    "help": (["--help"], "stdout"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reader_that_is_gone(case: str, home: Path) -> None:
    arguments, closed = CASES[case]
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    command = [sys.executable, "-m", "quip_engine", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # argparse ends with 0
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, text=True, check=False, **streams)
    os.close(writing)
    assert done.returncode == QUIET
    if closed == "stdout":
        assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_output_that_is_read(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["runs", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
