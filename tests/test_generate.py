import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import FAMILIES, tiny_model

from quip_engine.config import GenerationSettings
from quip_engine.errors import QuipError
from quip_engine.generate import Answer, Piece, Token, choose, stream
from quip_engine.loading import load_model
from quip_engine.prompts import prepare_prompt


def loaded(folder: Path):
    model, tokenizer = load_model(folder, torch.device("cpu"))
    model.generation_config.eos_token_id = tokenizer.eos_token = None  # random models end at random
    return model, tokenizer


@pytest.fixture
def parts(tmp_path: Path):
    return loaded(tiny_model(tmp_path))


def answer(parts, text: str = "ab", stop: threading.Event | None = None, **settings) -> Answer:
    chosen = GenerationSettings(**{"max_tokens": 12, **settings})
    return Answer.of(stream(*parts, prepare_prompt(*parts, text, chosen.max_tokens), chosen, stop))


def ids(result: Answer) -> list[int]:
    return [token.id for token in result.tokens]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_full_passes(tmp_path: Path, family: str) -> None:
    """The cache changes nothing: every token is the likeliest after the whole text so far, with its probability."""
    parts = model, _ = loaded(tiny_model(tmp_path, family))
    result = answer(parts)
    text = list(prepare_prompt(*parts, "ab").ids)
    for token in result.tokens:
        with torch.no_grad():
            p = model(torch.tensor([text])).logits[0, -1].softmax(-1)
        assert token.id == int(p.argmax())
        assert token.probability == pytest.approx(float(p.max()), rel=1e-4)
        text.append(token.id)
    assert (len(result.tokens), result.end) == (12, "length")
    reference = model.generate(torch.tensor([text[:2]]), do_sample=False, max_new_tokens=12, pad_token_id=0)
    assert reference[0].tolist() == text


def test_a_seed_decides_the_text(parts) -> None:
    first, again, other = (answer(parts, temperature=1.0, seed=seed, max_tokens=30) for seed in (5, 5, 6))
    assert ids(first) == ids(again)
    assert first.text == again.text
    assert ids(first) != ids(other)


def test_pieces_join_to_the_decoded_tokens(parts) -> None:
    result = answer(parts, temperature=2.0, max_tokens=40)
    assert result.text == parts[1].decode(ids(result), skip_special_tokens=True)


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def shares(**settings) -> list[float]:
        drawn = [choose(logits, GenerationSettings(temperature=1.0, **settings), generator) for _ in range(4000)]
        return [drawn.count(i) / 4000 for i in range(4)]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.79) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(top_p=0.81) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.03)
    assert shares(top_p=1e-6) == [1, 0, 0, 0]
    sharp = [choose(logits, GenerationSettings(temperature=0.1), generator) for _ in range(500)]
    assert sharp.count(0) > 480


def test_one_seed_couples_two_models() -> None:
    """Nearly equal predictions give equal tokens for nearly every draw (measured: 497 of 500)."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    settings = GenerationSettings(temperature=1.0)
    equal = 0
    for seed in range(500):
        a, b = (
            choose(x, settings, torch.Generator().manual_seed(seed)) for x in (logits, logits + 0.01 * logits.cos())
        )
        equal += a == b
    assert equal > 480


def test_nothing_comes_after_stop(parts) -> None:
    stop = threading.Event()
    pieces = []
    for piece in stream(*parts, prepare_prompt(*parts, "ab"), GenerationSettings(max_tokens=50), stop):
        pieces.append(piece)
        stop.set()
    assert pieces[1:] == [Piece("", (), "stopped")]
    assert answer(parts, stop=stop).tokens == ()


@pytest.mark.parametrize("named_by", ["generation_config", "tokenizer"])
def test_the_end_token_ends_and_is_not_text(parts, named_by: str) -> None:
    model, tokenizer = parts
    free = ids(answer(parts))
    if named_by == "tokenizer":
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(free[3])
    else:
        model.generation_config.eos_token_id = [999, free[3]]
    ended = answer(parts)
    assert ids(ended) == free[: free.index(free[3])]
    assert ended.end == "eos"


def test_the_context_ends_an_answer(parts) -> None:
    result = answer(parts, text="x" * 30, max_tokens=1000)
    assert (len(result.tokens), result.end) == (34, "context")


def test_only_the_last_piece_has_an_end(parts) -> None:
    pieces = list(stream(*parts, prepare_prompt(*parts, "ab"), GenerationSettings(max_tokens=20)))
    assert [bool(piece.end) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.text and piece.tokens for piece in pieces[:-1])
    seconds = [token.seconds for piece in pieces for token in piece.tokens]
    assert seconds == sorted(seconds)


def test_a_consumer_that_leaves_does_not_change_the_grad_mode(parts) -> None:
    pieces = stream(*parts, prepare_prompt(*parts, "ab"), GenerationSettings(max_tokens=20))
    next(pieces)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_speed_counts_decoding_only() -> None:
    tokens = tuple(Token(i, 0.5, seconds) for i, seconds in enumerate((2.0, 2.5, 3.0)))
    result = Answer.of([Piece("a", tokens[:1]), Piece("b", tokens[1:], "length")])
    assert (result.text, result.first_token_seconds, result.tokens_per_second) == ("ab", 2.0, 2.0)
    single = Answer.of([Piece("", tokens[:1], "stopped")])
    assert single.tokens_per_second is None
    assert Answer.of([Piece("", (), "eos")]).first_token_seconds is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_k": 1.5},
        {"seed": "x"},
    ],
)
def test_wrong_settings_have_a_name(wrong: dict) -> None:
    with pytest.raises(QuipError) as caught:
        GenerationSettings(**wrong)
    assert caught.value.code == "BAD_SETTING"


def test_compiled_steps_write_the_same(parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the others take a minute
    prompt = prepare_prompt(*parts, "ab", 12)
    plain, compiled = (
        Answer.of(stream(*parts, prompt, GenerationSettings(12), compiled=compiled)) for compiled in (False, True)
    )
    assert [token.id for token in plain.tokens] == [token.id for token in compiled.tokens]
    assert len(plain.tokens) == 12
