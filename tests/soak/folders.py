"""S9: model folders of a stranger, checked and then asked for a word: refused by name, or harmless.

    python tests/soak/folders.py [--fast]

Each folder would, where it could, make a canary file, open a socket, read a secret outside of itself, or eat time and
memory. An audit hook in the process and in the children of the check notes sockets, commands and pickles.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from soak import Row, arguments, report  # finds what follows

# isort: split

from stranger import FAST, FOLDERS, GOOD, SECRET
from workers import forked, scratch, wait

from quip_engine.errors import QuipError

SECONDS, MEMORY = 10.0, 2 * 2**30
# The audit hook: in this process by ``exec``, in children through the folder in PYTHONPATH.
HOOK = """import os, sys
BAD = ("socket.__new__", "socket.connect", "socket.getaddrinfo", "os.system", "os.posix_spawn", "pickle.find_class")
def note(event, given):
    child = event == "subprocess.Popen" and "tokenizer_child" not in str(given[1])
    code = event == "exec" and os.environ["SOAK_FOLDER"] in str(getattr(given[0], "co_filename", ""))
    if event in BAD or child or code:
        number = os.open(os.environ["SOAK_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(number, f"{event} {str(given)[:200]}\\n".encode())
sys.addaudithook(note)
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a folder. Times are of processors, memory is of the largest child."""

    answers: list[str]  # to ``check`` and ``ask``: a code, or "accepted"
    seconds: float
    memory: int
    noted: list[str]
    told: str


def check(folder: Path) -> None:
    from quip_engine.probe import probe

    probe(str(folder))


def ask(folder: Path) -> None:
    """Let the model say a word, as ``generate`` does."""
    import torch

    from quip_engine.config import GenerationSettings
    from quip_engine.generate import stream
    from quip_engine.loading import load_model
    from quip_engine.prompts import prepare_prompt

    model, tokenizer = load_model(folder, torch.device("cpu"))
    settings = GenerationSettings(1)
    list(stream(model, tokenizer, prepare_prompt(model, tokenizer, "Once", 1), settings))


def visit(folder: Path, answer: Path) -> None:
    """What a forked process does with a folder."""
    exec(HOOK, {})
    answers, told, started = [], "", sum(os.times()[:4])
    for way in (check, ask):
        try:
            way(folder)
            answers.append("accepted")
        except QuipError as error:
            answers.append(error.code)
            told += f"{error.message} {error.hint} {error.details}"
        except BaseException as error:
            answers.append(f"{type(error).__name__}: {error}"[:200])
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    answer.write_text(json.dumps([answers, sum(os.times()[:4]) - started, memory, told]))


def attacked(folder: Path, name: str) -> Outcome:
    """Make a folder and visit it; nothing of it stays."""
    model, notes, answer = folder / "model", folder / "notes", folder / "answer.json"
    FOLDERS[name](model)
    os.environ.update(SOAK_NOTES=str(notes), SOAK_FOLDER=str(model), PYTHONPATH=str(folder / "hook"))
    status = wait(forked(lambda: visit(model, answer)))
    found = json.loads(answer.read_text()) if answer.exists() else [[f"ended with {status}"], 0.0, 0, ""]
    noted = notes.read_text().splitlines() if notes.exists() else []
    for path in (notes, answer):
        path.unlink(missing_ok=True)
    shutil.rmtree(model)
    return Outcome(*found[:3], noted, found[3])


def visited(folder: Path, names: list[str]) -> Row:
    row = Row("S9", "folders of a stranger: refused by name or safe; no canary, no socket, 10 s, 2 GB in the check")
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    (folder / SECRET).write_text("{secret: 7316}")
    refused, slowest, largest = 0, 0.0, 0
    for name in names:
        outcome = attacked(folder, name)
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
        refused += outcome.answers[0] != "accepted"
        wrong = [a for a in outcome.answers if a != "accepted" and not re.fullmatch("[A-Z_]+", a)]
        wrong += outcome.noted + (["the secret was told"] if "7316" in outcome.told else [])
        wrong += ["a canary file"] if list(folder.rglob("canary*")) else []
        wrong += ["too slow or too large"] if outcome.seconds > SECONDS or outcome.memory > MEMORY else []
        row.problems += [f"{name}: {what}" for what in wrong]
        print(f"{name}: {' / '.join(outcome.answers)}, {outcome.seconds:.1f} s", file=sys.stderr)
    figures = f"at most {slowest:.1f} s, {largest / 2**30:.2f} GB"
    return row.close(f"{refused} of {len(names)} refused, {len(names) - refused} safe; {figures}")


def main() -> int:
    options = arguments(__doc__)
    started = time.monotonic()
    with scratch() as folder:
        FOLDERS[GOOD](folder / "good")
        check(folder / "good")
        ask(folder / "good")  # imports
        rows = [visited(folder, [name for name in (FAST if options.fast else FOLDERS) if name != GOOD])]
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
        return report(rows)


if __name__ == "__main__":
    sys.exit(main())
