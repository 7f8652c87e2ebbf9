"""Calibration windows: full, distinct, decided by the seed; every unusable text is refused by name."""

from __future__ import annotations

import gzip
import json
import socket
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as arrow
import pytest
import torch
from helpers import END, made_up_text, tiny_model
from pyarrow import parquet
from transformers import AutoTokenizer

from quip_engine.calibration import SETS, calibration_windows, evaluation_text, load_documents, preview, sets
from quip_engine.calibration.sets import HUB_SETS, HubSet, stream
from quip_engine.config import CalibrationConfig
from quip_engine.errors import QuipError

END_ID = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Byte-level: a text has as many tokens as bytes."""
    return AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("tokenizer")))


def windows(tokenizer, source, *, samples=4, seqlen=16, seed=0, context=4096):
    return calibration_windows(tokenizer, CalibrationConfig(str(source), samples, seqlen), seed, context)


def code_of(call) -> str:
    with pytest.raises(QuipError) as caught:
        call()
    assert caught.value.message and caught.value.hint
    return caught.value.code


def test_shape_type_and_seed(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(made_up_text(400))
    one, again, other = (windows(tokenizer, tmp_path / "a.txt", seed=seed) for seed in (0, 0, 1))
    assert one.tokens.shape == (4, 16)
    assert one.tokens.dtype == torch.int64
    assert one.notes == []
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_one_long_text_gives_windows_that_never_overlap(tokenizer, tmp_path: Path) -> None:
    numbers = "".join(f"{i:04d}" for i in range(250))
    (tmp_path / "a.txt").write_text(numbers)
    found = windows(tokenizer, tmp_path / "a.txt", samples=100, seqlen=16)
    assert found.tokens.shape == (62, 16)  # 1000 tokens
    starts = sorted(numbers.index(tokenizer.decode(row)) for row in found.tokens)
    assert all(b - a == 16 for a, b in pairwise(starts))
    assert [code for code, _ in found.notes] == ["CALIB_SMALL"]
    assert "62" in found.notes[0][1]


def test_every_long_document_has_its_turn_first(tokenizer, tmp_path: Path) -> None:
    documents = [letter * 50 for letter in "abcdefgh"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    first = windows(tokenizer, tmp_path / "a.jsonl", samples=8, seqlen=16).tokens
    assert sorted(tokenizer.decode(row)[0] for row in first) == list("abcdefgh")
    everything = windows(tokenizer, tmp_path / "a.jsonl", samples=100, seqlen=16).tokens
    assert len(everything) == 8 * 3
    assert torch.equal(everything[:8], first)


def test_short_documents_are_joined_with_the_end_token(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(word) for word in ["one", "two", "six", "ten"]))
    tokens = windows(tokenizer, tmp_path / "a.jsonl", samples=1, seqlen=16).tokens[0]
    assert tokens[3::4].tolist() == [END_ID] * 4
    assert sorted(tokenizer.decode(tokens).split(END)) == ["", "one", "six", "ten", "two"]


def test_a_large_text_is_not_tokenized_as_a_whole(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(made_up_text(100) * 20_000)  # 10 MB
    seen = []

    class Counting:
        eos_token_id = END_ID

        def __call__(self, text: str, **settings: object) -> object:
            seen.append(len(text))
            return tokenizer(text, **settings)

    assert windows(Counting(), tmp_path / "a.txt", samples=4, seqlen=16).tokens.shape == (4, 16)
    assert sum(seen) == 4 * 16 * 16


def test_windows_are_cut_to_the_context(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(made_up_text(400))
    found = windows(tokenizer, tmp_path / "a.txt", seqlen=128, context=64)
    assert found.tokens.shape == (4, 64)
    assert [code for code, _ in found.notes] == ["CALIB_CUT"]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "json lines", "parquet", "txt.gz", "jsonl.gz"])
def test_kinds_of_files(kind: str, tmp_path: Path) -> None:
    documents = ["first döcument\nwith two lines", "second"]
    records = [{"id": 3, "name": "n", "text": document} for document in documents]
    lines = "\n".join(json.dumps(record) for record in records).encode()
    path = tmp_path / f"a.{kind.partition(' ')[0]}"
    if kind == "parquet":
        parquet.write_table(arrow.Table.from_pylist(records), path)
    elif kind == "json":
        path.write_text(json.dumps(records))
    else:
        data = lines if "json" in kind else documents[0].encode()
        path.write_bytes(gzip.compress(data, mtime=0) if kind.endswith("gz") else data)
    expected = documents[:1] if "txt" in kind else documents
    assert sorted(load_documents(str(path))) == sorted(expected)
    assert evaluation_text(path) == "\n\n".join(expected)


def test_the_first_column_with_text_is_taken_where_none_is_called_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1, "body": "x", "more": "y"}\n\n{"n": 2, "body": "z", "more": "y"}\n')
    assert sorted(load_documents(str(tmp_path / "a.jsonl"))) == ["x", "z"]


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.txt", b"", "CALIB_EMPTY"),
        ("blank.txt", b" \n\t\n", "CALIB_EMPTY"),
        ("empty.jsonl", b"", "CALIB_EMPTY"),
        ("latin.txt", "häßlich".encode("latin-1"), "CALIB_FORMAT"),
        ("binary.txt", b"ab\0cd", "CALIB_FORMAT"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": ', "CALIB_FORMAT"),
        ("broken.json", b'[{"text": "a"}', "CALIB_FORMAT"),
        ("deep.json", b"[" * 100_000, "CALIB_FORMAT"),
        ("deep.jsonl", b"[" * 100_000, "CALIB_FORMAT"),
        ("numbers.json", b"[1, 2]", "CALIB_FORMAT"),
        ("broken.parquet", b"PAR1", "CALIB_FORMAT"),
        ("broken.txt.gz", b"text", "CALIB_FORMAT"),
        ("cut.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-9], "CALIB_FORMAT"),
        ("small.txt", b"some letters", "CALIB_SMALL"),
    ],
)
def test_unusable_files(tokenizer, tmp_path: Path, name: str, data: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert code_of(lambda: windows(tokenizer, tmp_path / name)) == code


def test_what_is_no_file(tokenizer, tmp_path: Path) -> None:
    assert code_of(lambda: windows(tokenizer, tmp_path / "none.txt")) == "NOT_FOUND"
    assert code_of(lambda: windows(tokenizer, "nosuchset")) == "NOT_FOUND"
    assert code_of(lambda: windows(tokenizer, "texts/none.jsonl")) == "NOT_FOUND"
    assert code_of(lambda: windows(tokenizer, tmp_path)) == "CALIB_FORMAT"
    assert code_of(lambda: windows(tokenizer, "x" * 5000)) == "BAD_PATH"
    assert code_of(lambda: windows(tokenizer, "~nosuchuser/a.txt")) == "BAD_PATH"
    assert code_of(lambda: windows(tokenizer, "own er/name")) == "BAD_HUB_ID"
    assert code_of(lambda: windows(tokenizer, "https://huggingface.co/datasets/owner/name")) == "BAD_HUB_ID"


def test_parquet_without_text(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"n": [1, 2]}), tmp_path / "a.parquet")
    assert code_of(lambda: list(load_documents(str(tmp_path / "a.parquet")))) == "CALIB_FORMAT"


def test_bundled_text_is_enough_for_the_usual_job(assets: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets / "demo-model")
    usual = CalibrationConfig()
    found = calibration_windows(tokenizer, usual, 0, 512)
    assert found.tokens.shape == (usual.samples, usual.seqlen)
    assert len({tuple(row) for row in found.tokens.tolist()}) == usual.samples
    assert found.notes == []


def test_preview(tmp_path: Path) -> None:
    assert [len(text) for text in preview("bundled", 2)] == [600]
    (tmp_path / "a.txt").write_text("short")
    assert preview(str(tmp_path / "a.txt")) == ["short"]


def test_every_named_set_is_explained() -> None:
    assert list(SETS) == ["bundled", *HUB_SETS]
    assert all(SETS.values())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every address is unknown, and no cache is there."""
    import datasets.config
    from huggingface_hub import constants

    def refuse(*args: object, **settings: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.parametrize("source", ["c4", "wikitext2", "fineweb-edu", "owner/name"])
@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_answer_is_quick(no_network: None, source: str, offline: bool) -> None:
    started = time.perf_counter()
    assert code_of(lambda: next(load_documents(source, offline=offline))) == "HUB_OFFLINE"
    assert time.perf_counter() - started < 2  # 0.01 measured, the client's own tries take 24


class Rows(list):
    """Stands in for a streamed data set."""

    def shuffle(self, seed: int, buffer_size: int) -> Rows:
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return Rows([self[i] for i in order])


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A hub that knows every set; returns the calls for rows. Each has 40 rows."""
    import datasets

    calls: list[tuple] = []

    def load(*names: object, **settings: object) -> Rows:
        calls.append((*names, settings))
        return Rows({"url": f"u{i}", "text": f"row {i} " + "word " * 5} for i in range(40))

    monkeypatch.setattr(sets.huggingface_hub, "dataset_info", lambda name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_named_sets_ask_the_hub_for_what_they_name(online: list[tuple]) -> None:
    for name in HUB_SETS:
        next(load_documents(name))
    c4, wikitext, fineweb = online
    assert c4[:2] == ("allenai/c4", None)
    assert c4[2]["data_files"] == {"train": "en/c4-train.00000-of-01024.json.gz"}
    assert wikitext[:2] == ("Salesforce/wikitext", "wikitext-2-raw-v1")
    assert fineweb[:2] == ("HuggingFaceFW/fineweb-edu", "sample-10BT")
    assert all(call[2]["streaming"] and call[2]["split"] == "train" for call in online)


def test_rows_of_a_set_are_shuffled_by_seed_and_lines_are_kept_together(online: list[tuple]) -> None:
    one, again, other = (list(load_documents("owner/name", seed=seed)) for seed in (0, 0, 1))
    assert one == again != other
    assert len(one) == 40
    text = list(load_documents("wikitext2"))
    assert len(text) == 1
    assert text[0].startswith("row 0") and "\n\nrow 1 " in text[0]


def test_windows_of_a_set(tokenizer, online: list[tuple]) -> None:
    assert windows(tokenizer, "owner/name", samples=30).tokens.shape == (30, 16)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [(Rows(), "no column"), (Rows([{"n": 1}]), "no column"), (ValueError("Config name is missing."), "Config name")],
)
def test_sets_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, online: list[tuple], rows, reason: str) -> None:
    import datasets

    def load(*names: object, **settings: object) -> Rows:
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(QuipError) as caught:
        list(stream(HubSet("owner/name"), offline=False, seed=0))
    assert caught.value.code == "CALIB_FORMAT"
    assert reason in caught.value.message
