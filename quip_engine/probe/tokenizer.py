"""Is there a tokenizer, can it be read safely, does the chat template work? Tried in a child process with limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from quip_engine.errors import fail
from quip_engine.probe.folder import read_json, refuse_placeholder

CHILD = Path(__file__).with_name("tokenizer_child.py")
KILLED_FOR_TIME = (-9, -24)  # what the limit on processor time sends
LARGEST = 256 * 2**20  # bytes of tokenizer files
LARGEST_TEMPLATE = 2**20
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MOST_PARTS = 200_000  # of each of these: transformers goes through them several times
NO_TEMPLATE = ("NO_TEMPLATE", "There is no chat template: prompts are continued as plain text.")


@dataclass(frozen=True)
class TokenizerFacts:
    tokens: int  # highest id plus one
    chat_template: bool  # there is one, and it works
    warnings: list[tuple[str, str]]


class TokenizerCheck:
    """Starts the child at once, so that it works while the caller does; ``result`` waits for it.

    Use as a context: what is still running at its end is killed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = _template(folder, _settings(folder))
        # A tokenizer of 128,000 words takes about a second, in step with its size.
        self.cpu_seconds = 1 + _size(folder) // (4 * 2**20)
        self.child = subprocess.Popen(
            [sys.executable, "-B", "-P", str(CHILD), str(folder), str(self.cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RAYON_NUM_THREADS": "1"},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> TokenizerCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.communicate()

    def result(self) -> TokenizerFacts:
        """What the child found; ``BAD_TOKENIZER`` where it crashed, took too long or could not read the tokenizer."""
        ended = "it took too long"
        try:
            output, _ = self.child.communicate(self.template or "", timeout=self.cpu_seconds + 5)
            if self.child.returncode not in KILLED_FOR_TIME:
                ended = f"its reader crashed (status {self.child.returncode})"
        except subprocess.TimeoutExpired:
            self.child.kill()
            output, _ = self.child.communicate()
        found: dict[str, Any] = {}
        for line in output.splitlines():
            found |= json.loads(line)
        if "tokens" not in found:
            fail("BAD_TOKENIZER", path=self.folder, reason=found.get("error", ended))
        return self._facts(found["tokens"], found.get("template", ended))

    def _facts(self, tokens: int, template: str) -> TokenizerFacts:
        if not self.template:
            return TokenizerFacts(tokens, False, [NO_TEMPLATE])
        if template != "ok":
            message = f"The chat template cannot be used ({template}): prompts are continued as plain text."
            return TokenizerFacts(tokens, False, [("BAD_TEMPLATE", message)])
        return TokenizerFacts(tokens, True, [])


def _size(folder: Path) -> int:
    """Bytes of the tokenizer files; refuses a folder without them, and placeholders."""
    files = [folder / "tokenizer.json"]
    if not files[0].is_file():
        files = [folder / "vocab.json", folder / "merges.txt"]
    if not all(file.is_file() for file in files):
        fail("NO_TOKENIZER", path=folder)
    for file in files:
        if not os.access(file, os.R_OK):
            fail("NO_PERMISSION", path=file)
        refuse_placeholder(file)
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST:
        fail("BAD_TOKENIZER", path=folder, reason=f"it has {size} bytes")
    return size


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; all that transformers reads of this kind can be read."""
    found = {name: _object(folder, name) for name in SETTINGS}["tokenizer_config.json"]
    if found.get("auto_map"):
        fail("CUSTOM_CODE")
    return found


def _object(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        return {}
    try:
        found = read_json(folder / name, most_parts=MOST_PARTS)
    except ValueError as error:
        fail("BAD_TOKENIZER", path=folder, reason=f"{name}: {error}")
    if not isinstance(found, dict):
        fail("BAD_TOKENIZER", path=folder, reason=f"{name} is not an object")
    return found


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or a key of tokenizer_config.json (a string, or a list of named ones)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        if (size := path.stat().st_size) > LARGEST_TEMPLATE:
            fail("BAD_TOKENIZER", path=folder, reason=f"{path.name} has {size} bytes")
        return path.read_text(encoding="utf-8", errors="replace") or None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None
