import threading

import pytest
import torch
from helpers import tiny_model

from quip_engine import agreement
from quip_engine.agreement import gaps, mean_kl, predictions, same_share
from quip_engine.config import GenerationSettings
from quip_engine.errors import QuipError
from quip_engine.generate import Answer, stream
from quip_engine.loading import load_model
from quip_engine.prompts import prepare_prompt

SAMPLED = GenerationSettings(max_tokens=20, temperature=0.8, top_k=40, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """A model, and the same a little changed."""
    model, tokenizer = load_model(tiny_model(tmp_path_factory.mktemp("a")), torch.device("cpu"))
    other, _ = load_model(tiny_model(tmp_path_factory.mktemp("b")), torch.device("cpu"))
    model.generation_config.eos_token_id = other.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with torch.no_grad():
        for k, weight in enumerate(other.parameters()):
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(k)))
    return model, other, tokenizer


def asked(model, tokenizer, settings: GenerationSettings = SAMPLED) -> tuple[tuple[int, ...], list[int]]:
    prompt = prepare_prompt(model, tokenizer, "Once upon a time", settings.max_tokens)
    answer = Answer.of(stream(model, tokenizer, prompt, settings, threading.Event()))
    return prompt.ids, [token.id for token in answer.tokens]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_chunks_read_what_one_pass_reads(models, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, tokenizer = models
    prompt, answer = asked(model, tokenizer)
    monkeypatch.setattr(agreement, "ROWS", rows)
    found = torch.cat(list(predictions(model, prompt, answer)))
    with torch.no_grad():
        whole = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    assert found.shape == (20, whole.shape[1])
    torch.testing.assert_close(found, whole[len(prompt) - 1 : -1], atol=1e-5, rtol=0)  # measured: 5e-7


@pytest.mark.parametrize("settings", [SAMPLED, GenerationSettings(max_tokens=20)])
def test_a_model_agrees_with_itself(models, settings: GenerationSettings) -> None:
    model, _, tokenizer = models
    prompt, answer = asked(model, tokenizer, settings)
    found = list(gaps(predictions(model, prompt, answer), predictions(model, prompt, answer), answer, settings))
    assert [gap.token for gap in found] == answer
    assert (same_share(found), mean_kl(found)) == (1.0, 0.0)
    assert all(gap.p == gap.q == gap.p_choice == gap.q_choice for gap in found)


def test_the_first_other_choice_is_where_both_answers_part(models) -> None:
    model, other, tokenizer = models
    (prompt, answer), (_, theirs) = asked(model, tokenizer), asked(other, tokenizer)
    found = list(gaps(predictions(model, prompt, answer), predictions(other, prompt, answer), answer, SAMPLED))
    place = next(k for k, (a, b) in enumerate(zip(answer, theirs, strict=True)) if a != b)
    assert next(k for k, gap in enumerate(found) if not gap.same) == place
    assert found[place].choice == theirs[place]
    log_p = torch.cat(list(predictions(model, prompt, answer)))
    assert found[place].p_choice == pytest.approx(float(log_p[place, theirs[place]].exp()))
    assert all(gap.kl > 0 for gap in found)


def test_no_more_than_was_kept_is_compared(models, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, tokenizer = models
    prompt, answer = asked(model, tokenizer)
    monkeypatch.setattr(agreement, "ROWS", 7)
    kept = list(predictions(model, prompt, answer))[:1]
    assert len(list(gaps(kept, predictions(other, prompt, answer), answer, SAMPLED))) == 7


def test_another_vocabulary_is_refused(models) -> None:
    model, _, tokenizer = models
    prompt, answer = asked(model, tokenizer)
    narrow = [part[:, :-1] for part in predictions(model, prompt, answer)]
    with pytest.raises(QuipError, match="tokens is not possible"):
        list(gaps(predictions(model, prompt, answer), narrow, answer, SAMPLED))
