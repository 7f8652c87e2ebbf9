"""The list of bad inputs, by number, and what is wrong with the world around while they are given."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_inputs import Chat, Fetched, Job, Resumed, Typed, Way, World
from breaking import (
    EXPANDS,
    POINTER,
    WEIGHTS,
    both,
    config,
    cut,
    index,
    instead,
    remove,
    shard,
    tensors,
    tokenizer,
    write,
)
from by_hand import Said, heard
from filelock import FileLock
from helpers import overflowing_model, overflowing_text
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import serve
from app.door import Door
from app.guard import BODY, Guard
from app.page import Choices
from quip_engine import block_work, room
from quip_engine.config import JobConfig
from quip_engine.runs import Run, Store

HEAD, NORM = "lm_head.weight", "model.norm.weight"
Q, K = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
NO_PAGE, NO_CLI = "the page is not there yet", "nobody asks the command line from a browser"


@dataclass(frozen=True)
class Case:
    """A bad input. ``code``: of its error; "" for a notice, which says ``sentence``."""

    given: Any
    code: str = ""
    sentence: str = ""
    on_page: str = ""  # the sentence there, where it is another
    meanwhile: Callable[[World, pytest.MonkeyPatch], object] = lambda *_: None  # what is wrong with the world around
    only: str = ""
    differs: str = ""


def replaced(target: Any, name: str, value: Any) -> Callable[[World, pytest.MonkeyPatch], object]:
    return lambda _world, patch: patch.setattr(target, name, value)


def raising(error: Exception) -> Callable[..., object]:
    def call(*_: object) -> None:
        raise error

    return call


def busy(world: World, _patch: pytest.MonkeyPatch) -> None:
    """A run that is at work."""
    store = Store(world.home)
    run = store.create(JobConfig("/models/other", "/out/other"))
    lock = FileLock(run.directory / "worker.lock")
    lock.acquire()
    world.afterwards.append(lambda: (lock.release(), store.forget(run.id)))


def flips(world: World, patch: pytest.MonkeyPatch) -> None:
    """The model changes while it is worked on."""
    real = block_work.quantize_weight

    def quantize(*given: Any, **named: Any) -> Any:
        weights = world.model() / WEIGHTS
        os.utime(weights)
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([(data[-1] + 1) % 256]))
        return real(*given, **named)

    patch.setattr(block_work, "quantize_weight", quantize)


def damage_work(_world: World, run: Run) -> None:
    for path in (run.directory / "work" / "objects").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")


def other_text(world: World, _run: Run) -> None:
    world.text.write_text(world.text.read_text()[500:])


def overflows(count: int) -> Callable[[World], Path]:
    def make(world: World) -> Path:
        if not (world.folder / "model").exists():
            overflowing_model(world.folder).rename(world.folder / "model")
        return overflowing_text(world.folder / "rows.jsonl", 20, 32, count)

    return make


def link_out(world: World) -> str:
    link = world.folder / "link"
    if not link.exists():
        (world.folder / "elsewhere").mkdir()
        link.symlink_to(world.folder / "elsewhere")
    return f"{link}/../link"


def text(data: bytes) -> Callable[[World], Path]:
    def make(world: World) -> Path:
        world.text.write_bytes(data)
        return world.text

    return make


def filled(world: World) -> Path:
    world.out.mkdir(exist_ok=True)
    (world.out / "mine.txt").write_text("keep")
    return world.out


FULL = torch.OutOfMemoryError("CUDA out of memory")
DEAD = RuntimeError("CUDA error: unspecified launch failure")
ZEROS = tensors(lambda t: t.update({K: torch.zeros_like(t[K])}))
HALF_HEAD = tensors(lambda t: t.update({HEAD: t["model.embed_tokens.weight"] / 2}))
EXTRA = tensors(lambda t: t.update({"extra.weight": torch.ones(3)}))
UNREACHED = tensors(lambda t: [t[f"model.layers.0.mlp.{n}_proj.weight"].zero_() for n in ("gate", "up")])
FEW_ROWS = tensors(
    lambda t: t.update({n: t[n][:250].clone() for n in ("model.embed_tokens.weight", HEAD)}),
)
LOOPS = '{"chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"}'
ENCODER = config(model_type="roberta", architectures=["RobertaModel"])
PLAIN = "no chat template: prompts are continued as plain text"


def gone(world: World) -> None:
    """A finished run whose model was removed."""
    store = Store(world.home)
    run = store.create(JobConfig("/models/other", str(world.out)))
    store.update(run.id, status="done", finished=1.0)
    world.page.studio.follower.refresh()
    world.afterwards.append(lambda: store.forget(run.id))


def exported(world: World) -> Said:
    gone(world)
    return heard("runs", "export", Store(world.home).list()[0].id, str(world.folder / "copy"))


def exported_on_page(world: World) -> str:
    gone(world)
    return world.page.press("do-export", State=Choices(), **{"export-to": str(world.folder / "copy")})


def taken_port(_world: World) -> Said:
    with socket.create_server(("127.0.0.1", 0)) as server, redirect_stderr(StringIO()) as told:
        assert serve.main(["--port", str(server.getsockname()[1])]) == 2
    return Said("PORT_BUSY" if "(PORT_BUSY)" in told.getvalue() else "", "Start with --port", told.getvalue())


def asked(path: str, **headers: str) -> Callable[[World], str]:
    """What a browser is told that asks like this."""

    def ask(_world: World) -> str:
        client = TestClient(Guard(Starlette(), Door(b"s" * 16, 7860)), base_url="http://127.0.0.1:7860")
        answer = client.request("POST" if "upload" in path else "GET", path, headers=headers)
        return f"{answer.status_code} {answer.text}"

    return ask


CASES: dict[int, Case] = {
    1: Case(Typed(""), "NO_MODEL"),
    2: Case(Typed("/no/such/folder"), "NOT_FOUND"),
    3: Case(Typed(__file__), "NOT_A_FOLDER"),
    4: Case(
        Typed(damage=both()), "NO_PERMISSION", meanwhile=replaced(os, "access", lambda path, mode: False)
    ),  # who runs the suite as root may read all
    5: Case(
        Typed(link_out),
        "NO_CONFIG",
        differs="no folders are forbidden: who may open the page reads with the rights of this user; links and .. "
        "are followed, and what is there is checked as any folder",
    ),
    6: Case(Typed("a\0b"), "BAD_PATH"),
    7: Case(Typed("own er/name"), "BAD_HUB_ID"),
    8: Case(Fetched("owner/none"), "HUB_NOT_FOUND"),
    9: Case(Fetched("owner/tiny", lambda hub: hub.gated.add("owner/tiny")), "HUB_GATED"),
    10: Case(Fetched("owner/tiny", flags=("--offline",)), "HUB_OFFLINE"),
    11: Case(Fetched("owner/tiny", lambda hub: setattr(hub, "cut_after", 4096)), "DOWNLOAD_INCOMPLETE"),
    12: Case(Fetched("owner/tiny", lambda hub: setattr(hub, "spoil", True)), "HASH_MISMATCH"),
    13: Case(Typed(damage=remove("config.json")), "NO_CONFIG"),
    14: Case(Typed(damage=write("config.json", '{"model_type": "llama",\n"hidden')), "BAD_CONFIG", "(line 2)"),
    15: Case(Typed(damage=config(model_type=None)), "NO_MODEL_TYPE"),
    16: Case(Typed(damage=config(model_type="foo", architectures=["FooForCausalLM"])), "UNSUPPORTED_ARCH"),
    17: Case(Typed(damage=ENCODER), "NOT_A_CHAT_MODEL"),
    18: Case(Typed(damage=config(model_type="mine", auto_map={"AutoModel": "modeling.Mine"})), "CUSTOM_CODE"),
    19: Case(Typed(damage=config(_attn_implementation="evil/kernel")), "UNSAFE_CONFIG", "evil/kernel"),
    20: Case(Typed(damage=instead("pytorch_model.bin")), "PICKLE_ONLY"),
    21: Case(Typed(damage=instead("model.gguf")), "WRONG_FORMAT"),
    22: Case(Typed(damage=remove(WEIGHTS)), "NO_WEIGHTS"),
    23: Case(Typed(damage=lambda folder: shard(1)(folder).unlink(), kind="shards"), "SHARD_MISSING"),
    24: Case(Typed(damage=cut(100_000)), "SHARD_TRUNCATED", "100000 of "),
    25: Case(Typed(damage=write(WEIGHTS, POINTER)), "LFS_POINTER"),
    26: Case(Typed(damage=write(WEIGHTS, b"")), "SHARD_EMPTY"),
    27: Case(Typed(damage=write(WEIGHTS, b"PK\x03\x04" * 100)), "BAD_SAFETENSORS"),
    28: Case(Typed(damage=write("model.safetensors.index.json", "{"), kind="shards"), "BAD_INDEX"),
    29: Case(Typed(damage=index(lambda m: m.update(a="../good/model.safetensors")), kind="shards"), "UNSAFE_INDEX"),
    30: Case(Typed(damage=tensors(lambda t: t.pop(NORM))), "TENSOR_MISSING", f"{NORM} is not in the files"),
    31: Case(Typed(damage=EXTRA), sentence="1 tensors in the files are no part of the model (first: extra.weight)"),
    32: Case(Typed(damage=config(intermediate_size=64)), "SHAPE_MISMATCH"),
    33: Case(Typed(damage=tensors(lambda t: t.update({"norm.weight": torch.ones(32)}))), "TENSOR_DUPLICATE"),
    34: Case(Typed(damage=tensors(lambda t: t.update({NORM: t[NORM].to(torch.int8)}))), "DTYPE_UNSUPPORTED"),
    35: Case(Job(tensors(lambda t: t[Q].fill_(torch.nan))), "NON_FINITE_WEIGHT", Q),
    36: Case(Job(ZEROS), sentence="every weight is zero"),
    37: Case(Typed(damage=config(quantization_config={"quant_method": "gptq", "bits": 4})), "ALREADY_QUANTIZED"),
    38: Case(Job(config(quantization_config={"quant_method": "quip"})), "OWN_OUTPUT"),
    39: Case(Typed(damage=HALF_HEAD, kind="tied"), sentence="the stored head differs; it is kept separate"),
    40: Case(Typed(damage=tensors(lambda t: t.pop(HEAD))), "HEAD_MISSING"),
    41: Case(Job(kind="wide"), sentence="Kept in its original precision", differs="a notice: the other layers go on"),
    42: Case(Typed(damage=config(num_hidden_layers=-1)), "BAD_CONFIG_VALUE"),
    43: Case(Typed(damage=config(rope_parameters={"rope_type": "foo", "rope_theta": 1e4})), "ROPE_UNSUPPORTED"),
    44: Case(Typed(damage=remove("tokenizer.json")), "NO_TOKENIZER"),
    45: Case(Typed(damage=tokenizer(normalizer=EXPANDS)), "BAD_TOKENIZER"),
    46: Case(Typed(damage=both(FEW_ROWS, config(vocab_size=250, bos_token_id=0, eos_token_id=0))), "VOCAB_MISMATCH"),
    47: Case(Typed(damage=both()), sentence=PLAIN, on_page="no: it continues text"),
    48: Case(
        Typed(damage=write("tokenizer_config.json", LOOPS)),
        sentence="The chat template cannot be used",
        differs="a notice: prompts are continued as plain text",
    ),
    49: Case(Job(text=text(b"")), "CALIB_EMPTY"),
    50: Case(Job(text=text(b"few words")), "CALIB_SMALL", "9 tokens"),
    51: Case(Job(flags={"--seqlen": 256}), sentence="Windows are cut from 256 to the model's context of 64 tokens"),
    52: Case(Job(text=text(b"\xff\xfe\0\0" * 99)), "CALIB_FORMAT"),
    53: Case(Job(flags={"--seed": -1}), "BAD_SETTING", "seed"),
    54: Case(Job(out=filled), "OUTPUT_EXISTS"),
    55: Case(Job(out=lambda world: world.folder / "model" / "out"), "OUTPUT_IN_SOURCE"),
    56: Case(Job(out=lambda world: world.text / "out"), "OUTPUT_NOT_WRITABLE"),
    57: Case(Job(), "DISK_FULL", meanwhile=replaced(room, "free_bytes", lambda _: 1000)),
    58: Case(Job(), "GPU_MEMORY", meanwhile=replaced(block_work, "block_hessians", raising(FULL))),
    59: Case(Job(), "HOST_MEMORY", meanwhile=replaced(room, "free_memory", lambda _: 1000)),
    60: Case(Job(flags={"--device": "cuda"}), "NO_GPU", meanwhile=replaced(torch.cuda, "is_available", lambda: False)),
    61: Case(Job(), "GPU_LOST", meanwhile=replaced(block_work, "block_hessians", raising(DEAD))),
    62: Case(Job(), "BUSY", "is running", meanwhile=busy),
    63: Case(Resumed(meanwhile=other_text), "RESUME_MISMATCH", "calibration"),
    64: Case(Resumed(meanwhile=damage_work), "CHECKPOINT_DAMAGED"),
    65: Case(Job(), "SOURCE_CHANGED", WEIGHTS, meanwhile=flips),
    66: Case(Job(UNREACHED), "QUANT_UNSTABLE", "1 of 14 layers"),
    67: Case(
        Job(text=overflows(3), flags={"--samples": 20}),
        "ACTIVATION_OVERFLOW",
        "3 of 20 calibration rows overflow in model.decoder.layers.0",
    ),
    68: Case(Chat("word " * 40), sentence="The prompt was cut to its last 60 tokens"),
    69: Case(Way(exported, exported_on_page), "MODEL_GONE"),
    70: Case(Way(taken_port, lambda _: ""), "PORT_BUSY", "is in use", only=NO_PAGE),
    71: Case(Way(lambda _: Said("", "", ""), asked("/", host="evil.test")), on_page="421 ", only=NO_CLI),
    72: Case(
        Way(lambda _: Said("", "", ""), asked("/gradio_api/upload", **{"content-length": str(BODY + 1)})),
        on_page="UPLOAD_LIMIT: The file is larger than 8 MB. Give its path instead.",
        only=NO_CLI,
    ),
}
