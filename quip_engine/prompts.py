"""What is typed becomes token ids: through the model's chat template where it has one, else as text to continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quip_engine.errors import CATALOGUE, fail

Message = dict[str, str]  # role and content, as chat templates take them
LONGEST = 1_000_000  # characters


@dataclass(frozen=True)
class Prompt:
    """Token ids, the context length they must fit with the answer (None: no limit), and how they were made."""

    ids: tuple[int, ...]
    context: int | None
    templated: bool  # False: plain text that the model continues
    notes: tuple[tuple[str, str], ...] = ()  # (code, sentence)


def prepare_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: str | Sequence[Message],
    max_tokens: int = 128,
) -> Prompt:
    """Token ids for a text or a conversation.

    A prompt that leaves no room is cut to its last tokens (note ``PROMPT_LONG``): an answer gets ``max_tokens`` or
    half of the context, whichever is less. A template that fails is noted (``BAD_TEMPLATE``) and not used.
    """
    text, templated, notes = write(tokenizer, asked)
    ids = tokenizer(text, add_special_tokens=not templated, verbose=False)["input_ids"]
    ids, context = ids or _beginning(tokenizer), context_length(model)
    if context is not None and len(ids) > (room := max(context - max_tokens, context // 2)):
        notes = [*notes, ("PROMPT_LONG", f"The prompt was cut to its last {room} tokens.")]
        ids = _last(ids, room, tokenizer)
    return Prompt(tuple(ids), context, templated, tuple(notes))


def write(
    tokenizer: PreTrainedTokenizerBase, asked: str | Sequence[Message]
) -> tuple[str, bool, list[tuple[str, str]]]:
    """What a model is given to read for a text or a conversation, whether its template made that, and notes."""
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    length = sum(len(message["content"]) for message in messages)
    if length > LONGEST:
        fail("BAD_SETTING", field="prompt", value=f"{length} characters", allowed=f"up to {LONGEST} characters")
    plain = "\n\n".join(message["content"] for message in messages)
    try:
        text = _templated(tokenizer, messages)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        return plain, False, [("BAD_TEMPLATE", CATALOGUE["BAD_TEMPLATE"][0].format(reason=error))]
    return (plain, False, []) if text is None else (text, True, [])


def context_length(model: PreTrainedModel) -> int | None:
    """Most tokens the model was made for; None where its config sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str | None:
    if tokenizer.chat_template is None:
        return None
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    text.encode()  # half of a character is a ValueError, and a TypeError of the tokenizer otherwise
    return text


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands for an empty prompt."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    fail("BAD_SETTING", field="prompt", value="empty", allowed="at least one character")


def _last(ids: list[int], count: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last ``count`` ids; a mark at the beginning stays there, models rely on it."""
    mark = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return mark + ids[len(mark) - count :]
