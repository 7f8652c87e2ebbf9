"""A workspace keeps what it was given, in two generations, for one writer, and nothing else."""

import json

import pytest
import torch

from quip_engine.errors import QuipError
from quip_engine.files import sha256
from quip_engine.identity import Sources, code_digest, differences
from quip_engine.workspace import GRADIENT, Workspace


def objects(space):
    return {path.name for path in space.objects.iterdir()}


def current(space):
    return (space.directory / "CURRENT").read_text().split()


def test_what_is_kept_comes_back_in_another_process_life(tmp_path):
    with Workspace(tmp_path) as space:
        assert space.kept("stage") is None
        kept = space.keep("stage", {"a": torch.arange(3)}, {"step": 7})
        assert kept.path.name == sha256(kept.path) and kept.bytes == kept.path.stat().st_size
        space.keep("note", record={"x": 1})
    with Workspace(tmp_path) as space:
        assert space.kept("stage").record == {"step": 7} and torch.equal(
            space.kept("stage").tensors()["a"], torch.arange(3)
        )
        assert space.kept("note").record == {"x": 1} and space.kept("note").tensors() == {}
        space.drop("stage", "never")
        assert space.kept("stage") is None
        space.clear()
    assert not tmp_path.exists()


def test_two_generations_stay_and_nothing_else(tmp_path):
    with Workspace(tmp_path) as space:
        for step in range(5):
            space.keep("state", {"x": torch.full((3,), step)}, {"step": step})
        assert len(current(space)) == 2
        assert len(objects(space)) == 2 * 3  # generation, record, tensors
        (space.objects / ".object.partial-9999999-00").write_text("dead")
    with Workspace(tmp_path) as space:
        assert len(objects(space)) == 6 and not space.fell_back
        assert space.kept("state").record == {"step": 4}


def test_every_damaged_byte_of_every_object_is_found(tmp_path):
    with Workspace(tmp_path) as space:
        for step in range(3):
            space.keep("state", {"x": torch.full((3,), step)}, {"step": step})
    newest, before = ((tmp_path / "objects" / name).read_text() for name in current(space))
    for path in sorted((tmp_path / "objects").iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        of_newest = path.name in newest or path.name == current(space)[0]
        back = Workspace(tmp_path)
        back.objects.mkdir(exist_ok=True)
        back._open()
        assert bool(back.fell_back) == of_newest
        assert back.kept("state").record == {"step": 1 if of_newest else 2}
        path.write_bytes(data)
    assert before != newest


@pytest.mark.parametrize("text", ["", "nonsense", "\0" * 64])
def test_a_pointer_to_nothing_is_damage(tmp_path, text):
    with Workspace(tmp_path) as space:
        space.keep("note", record={})
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(QuipError) as caught, Workspace(tmp_path):
        pass
    assert caught.value.code == "CHECKPOINT_DAMAGED"


def test_one_writer(tmp_path):
    with Workspace(tmp_path):
        with pytest.raises(QuipError) as caught, Workspace(tmp_path):
            pass
        assert caught.value.code == "BUSY"
    with Workspace(tmp_path):
        pass


def test_the_way_back_goes_on_where_a_process_ended(tmp_path):
    with Workspace(tmp_path) as space:
        assert space.states_kept() == 0
        for index in range(2):
            space.keep_states(index, torch.full((2, 2), float(index)), {"model.layers.0": [[0, 1]]})
        space.keep_gradient(2, torch.zeros(2, 2), {})
        space.keep_sensitivities(1, {"q.outputs": torch.ones(2)}, {"values": {"q": 0.1}})
        space.keep_gradient(1, torch.ones(2, 2), {})
    with Workspace(tmp_path) as space:
        index, gradient, history = space.gradient()
        assert (index, gradient.sum(), history, space.measured(1)) == (1, 4, {}, {"values": {"q": 0.1}})
        assert space.states_kept() == 1
        assert space.states(0)[0].sum() == 0 and space.states(0)[1] == {"model.layers.0": [[0, 1]]}
        space.finish_sensitivities({"q": 0.1})
        assert space.kept(GRADIENT) is None and space.values() == {"q": 0.1}


def test_differences_are_named_by_their_path():
    before = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "gone": 0}
    now = {"a": 1, "b": {"c": 3, "d": {"e": [4]}}, "new": 0}
    assert differences(before, now) == ["b.c", "b.d.e", "gone", "new"]
    assert differences(before, json.loads(json.dumps(before))) == []


def test_sources_notice_bytes_not_times(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    sources = Sources([path])
    path.write_bytes(b"abc")
    sources.check()
    path.write_bytes(b"abd")
    with pytest.raises(QuipError) as caught:
        sources.check()
    assert caught.value.code == "SOURCE_CHANGED"
    path.unlink()
    with pytest.raises(QuipError, match="changed while"):
        sources.check()


def test_the_code_has_one_digest_in_a_process():
    assert code_digest() == code_digest() and len(code_digest()) == 64
