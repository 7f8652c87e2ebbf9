"""R19, R20, R21: damaged model files end in an error with a code, or are what they say; nobody dies, hangs or swells.

python tests/soak/mutations.py [--fast] [--files 10000] [--headers 100000] [--processes 2] [--only R19] [--case 17]

A safetensors file goes the way of a quantization: headers, names and shapes against the architecture, then every
weight as the engine reads it, compared with a reading of our own here. The JSON files of a folder go the way of a
chat: the check of the folder, the model, its tokenizer, a prompt, two tokens. The check's child process may die of a
file, nobody else may. A case is made from its number alone; ``--case`` does one of them again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from unittest import mock

from soak import Row, arguments, report  # finds what follows

# isort: split

import torch
import warm
from attempts import Attempt, Prepare, attempts
from helpers import edit_json, tiny_model
from mutators import JSON, SAFETENSORS, mutated
from safetensors.torch import load as read_tensors
from torch import Tensor
from workers import scratch

from quip_engine.config import GenerationSettings
from quip_engine.errors import CATALOGUE
from quip_engine.generate import stream
from quip_engine.loading import load_model
from quip_engine.probe import headers, names, settings, tokenizer
from quip_engine.probe.folder import weight_files
from quip_engine.prompts import prepare_prompt
from quip_engine.skeleton import Skeleton

SECONDS, MEGABYTES = 2.0, 512.0  # most that a file may take of a processor and of memory
CPU = torch.device("cpu")
RAM = Path("/dev/shm")
FILES = ("config.json", "model.safetensors.index.json", "generation_config.json", "tokenizer_config.json")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}> {% endif %}"
)
REPLACE = {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}
SPLIT = {"type": "Split", "pattern": {"Regex": "\\w+|\\s+"}, "behavior": "Isolated", "invert": False}


def good_folder(into: Path, **changes: object) -> Path:
    """A tiny model whose tokenizer has one of everything."""
    folder = tiny_model(into, **changes)  # type: ignore[arg-type]
    path = folder / "tokenizer.json"
    bytewise = json.loads(path.read_text())["pre_tokenizer"]
    edit_json(
        path,
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, REPLACE]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, bytewise]},
        post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                        "special_tokens": {}},
    )  # fmt: skip
    edit_json(
        folder / "tokenizer_config.json",
        chat_template=TEMPLATE,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )
    return folder


# -- R19, R21 ----------------------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a folder, by the way of a quantization."""
    config = settings.read_config(folder)
    settings.check_config(config, folder)
    names.check_weights(config, headers.read_all(weight_files(folder)))
    skeleton = Skeleton(folder, CPU)
    skeleton.load_outside()
    inside = f"{skeleton.prefix}."
    yield from ((name, p) for name, p in skeleton.model.named_parameters() if not name.startswith(inside))
    for index in range(len(skeleton.blocks)):
        block = skeleton.load_block(index)
        yield from ((f"{inside}{index}.{name}", p) for name, p in block.named_parameters())


def as_stated(found: Iterable[tuple[str, Tensor]], stated: dict[str, Tensor], shapes: dict[str, torch.Size]) -> str:
    """Whether names, shapes, types and values are those the file states and the model needs; else what is not."""
    read = dict(found)
    if {name: tensor.shape for name, tensor in read.items()} != shapes:
        return "defect: other names or shapes were accepted"
    for name, tensor in read.items():
        if not (stated[name].is_floating_point() and torch.isfinite(tensor).all()):
            return f"defect: {name} of {stated[name].dtype} was accepted"
        if not torch.equal(stated[name].to(tensor.dtype), tensor):
            return f"defect: {name} was read as something else"
    return "ok"


def weights_case(folder: Path, good: bytes, shapes: dict[str, torch.Size]) -> Prepare:
    """R19."""

    def prepare(number: int) -> Callable[[], str]:
        mine, (_, data) = own_copy(folder), mutated(SAFETENSORS, good, f"weights {number}")
        (mine / "model.safetensors").write_bytes(data)

        def attempt() -> str:
            found = list(read_weights(mine))
            return as_stated(found, read_tensors(data), shapes)

        return attempt

    return prepare


def header_case(folder: Path, good: bytes) -> Prepare:
    """R21: only the reader of headers, which imports nothing."""

    def prepare(number: int) -> Callable[[], str]:
        path, (_, data) = own_copy(folder) / "model.safetensors", mutated(SAFETENSORS, good, f"header {number}")
        path.write_bytes(data)

        def attempt() -> str:
            stated = sum(tensor.bytes for tensor in headers.read_header(path).values())
            return "ok" if stated < len(data) else "defect: more than the file holds"

        return attempt

    return prepare


# -- R20 ---------------------------------------------------------------------------------------------------------------


def chat(folder: Path) -> str:
    """A folder as ``generate`` and a chat take it."""
    model, words = load_model(str(folder), CPU)
    prompt = prepare_prompt(model, words, "Tell me about Köln, please.", 2)
    list(stream(model, words, prompt, GenerationSettings(max_tokens=2)))
    return "ok"


def json_case(folder: Path) -> Prepare:
    """R20. Two fifths of the cases are tokenizers, which can hurt most."""
    kinds = (*FILES, "tokenizer.json")
    good = {name: (folder / name).read_bytes() for name in kinds}

    def prepare(number: int) -> Callable[[], str]:
        mine, name = own_copy(folder), kinds[number % len(kinds)]
        for kind in kinds:
            (mine / kind).write_bytes(good[kind] if kind != name else mutated(JSON, good[kind], f"{kind} {number}")[1])
        return lambda: chat(mine)

    return prepare


# ----------------------------------------------------------------------------------------------------------------------


def own_copy(folder: Path) -> Path:
    """Of this process, made once; where there is one, in memory."""
    return _copied(folder, os.getpid())


@cache
def _copied(folder: Path, process: int) -> Path:
    into = folder.parent / f"copy-{process}"
    shutil.copytree(folder, into, dirs_exist_ok=True)
    return into


def judged(row: Row, found: Iterable[Attempt], count: int) -> Row:
    began, outcomes, slowest, largest = time.monotonic(), Counter[str](), 0.0, 0.0
    for attempt in found:
        code = attempt.outcome
        outcomes[code.partition(":")[0]] += 1
        slowest, largest = max(slowest, attempt.seconds), max(largest, attempt.megabytes)
        if attempt.broke or (code != "ok" and code not in CATALOGUE):
            row.problems.append(f"case {attempt.number}: {code}")
        if attempt.seconds > SECONDS:
            row.problems.append(f"case {attempt.number}: {code} after {attempt.seconds:.1f} s")
        if attempt.megabytes > MEGABYTES:
            row.problems.append(f"case {attempt.number}: {code} with {attempt.megabytes:.0f} MB")
    print(f"{row.row}: {dict(outcomes.most_common())}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    what = f"{outcomes['ok']} accepted and whole, {count - outcomes['ok']} refused by {len(outcomes) - 1} codes"
    row.close(f"{what}, at most {slowest:.1f} s and {largest:.0f} MB; {len(row.problems)} problems")
    row.held &= sum(outcomes.values()) == count
    return row


def main() -> int:
    numbers = {"files": 10_000, "headers": 100_000, "processes": 2, "case": -1}
    options = arguments(
        __doc__, only={"default": "R19,R20,R21"}, **{k: {"type": int, "default": n} for k, n in numbers.items()}
    )
    files, many = (50, 300) if options.fast else (options.files, options.headers)
    with scratch(RAM if RAM.is_dir() else None) as home, mock.patch.object(tokenizer, "subprocess", warm):
        whole, shards = good_folder(home / "whole"), good_folder(home / "shards", shard_size="40KB")
        good = (whole / "model.safetensors").read_bytes()
        shapes = {name: p.shape for name, p in read_weights(whole)}
        assert chat(shards) == "ok"
        parts = {
            "R19": (weights_case(whole, good, shapes), files, "damaged safetensors files: a code, or read as stated"),
            "R20": (json_case(shards), files, "damaged JSON files: a code, or a chat"),
            "R21": (header_case(whole, good), many, "damaged headers: a code, or a header"),
        }
        rows = []
        for name in options.only.split(","):
            call, count, what = parts[name]
            cases = range(count) if options.case < 0 else range(options.case, options.case + 1)
            found = attempts(call, cases, min(options.processes, len(cases)))
            rows.append(judged(Row(name, f"{count} {what}; 2 s and 512 MB at most"), found, len(cases)))
        return report(rows)


if __name__ == "__main__":
    sys.exit(main())
