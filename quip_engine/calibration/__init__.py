"""Calibration text: from a name or a file to windows of tokens.

    windows: (samples, seqlen)      H = E[x x^T] over their tokens      (QuIP section 6, QuIP# section 4)

Every window is full: no padding, so no mask, and every token counts the same. Documents come in an order drawn from
the seed. One that is long enough gives a window at a random place, and further ones, which never overlap, only when
all have had their turn; shorter ones are joined with the end-of-text token between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quip_engine.calibration.sets import HUB_SETS, HubSet, stream
from quip_engine.calibration.texts import evaluation_text, read_documents
from quip_engine.config import CalibrationConfig
from quip_engine.errors import fail

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SETS", "Windows", "calibration_windows", "evaluation_text", "load_documents", "preview"]

BUNDLED = Path(__file__).parents[2] / "assets" / "calibration.txt"
# Names of sources and what they are. Any other source is a data set of the hub or a file.
SETS = {
    "bundled": "text that the demo model wrote; comes with the program",
    **{name: f"{hub_set.summary} ({hub_set.id})" for name, hub_set in HUB_SETS.items()},
}
TEXT_FILES = (".txt", ".md", ".json", ".jsonl", ".parquet", ".gz")
CHARACTERS = 16  # more than a token of any usual text has: a text of so many per token holds a window
PLENTY = 4  # texts of a window's length that are drawn from, for each window


@dataclass(frozen=True)
class Windows:
    """Calibration tokens and what a person should know about them."""

    tokens: Tensor  # (samples, seqlen), int64
    notes: list[tuple[str, str]] = field(default_factory=list)  # (code, message)


def calibration_windows(
    tokenizer: PreTrainedTokenizerBase, config: CalibrationConfig, seed: int, context: int, *, offline: bool = False
) -> Windows:
    """Windows of ``config.source``; fewer, or shorter, than asked with a note. The same seed gives the same windows.

    ``context``: longest sequence of the model. Raises the errors of ``load_documents`` and ``CALIB_SMALL`` where there
    is not one window.
    """
    notes = []
    seqlen = min(config.seqlen, context)
    if seqlen < config.seqlen:
        notes.append(("CALIB_CUT", f"Windows are cut from {config.seqlen} to the model's context of {seqlen} tokens."))
    generator = torch.Generator().manual_seed(seed)
    documents = load_documents(config.source, offline=offline, seed=seed)
    texts = _texts(documents, config.samples, CHARACTERS * seqlen, generator)
    drawn = _Drawn(seqlen, tokenizer.eos_token_id, generator)
    for text in texts:
        if len(drawn.windows) < config.samples:
            drawn.add(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    windows = drawn.all()[: config.samples]
    if not windows:
        fail("CALIB_SMALL", source=config.source, tokens=drawn.tokens, needed=seqlen, seqlen=seqlen)
    if len(windows) < config.samples:
        found = f"{config.source} gives {len(windows)} windows of {seqlen} tokens, {config.samples} were asked for"
        notes.append(("CALIB_SMALL", f"{found}. More text may give a better model."))
    return Windows(torch.tensor(windows), notes)


def load_documents(source: str, *, offline: bool = False, seed: int = 0) -> Iterator[str]:
    """The documents of a source in an order drawn from ``seed``; those of the hub arrive as they are taken.

    ``source``: ``bundled``, another name of ``SETS``, a file, or the id of a data set of the hub. Raises
    ``NOT_FOUND``, ``CALIB_EMPTY``, ``CALIB_FORMAT`` and the errors of the hub.
    """
    if is_local(source):
        documents = read_documents(BUNDLED if source == "bundled" else Path(source).expanduser())
        yield from _shuffled(documents, torch.Generator().manual_seed(seed))
    else:
        yield from stream(HUB_SETS.get(source) or HubSet(source), offline=offline, seed=seed)


def is_local(source: str) -> bool:
    """Whether a source is a text of this computer, known to be read in a moment."""
    return source == "bundled" or _is_file(source)


def preview(source: str, n: int = 3, *, offline: bool = False) -> list[str]:
    """The beginnings of ``n`` documents."""
    return [text[:600] for text in islice(load_documents(source, offline=offline), n)]


def _is_file(source: str) -> bool:
    """Whether a source is meant as a path: it exists, or does not look like owner/name."""
    if source in SETS or "://" in source:
        return False
    try:
        path = Path(source).expanduser()
        if path.exists() or path.suffix.lower() in TEXT_FILES or path.parent.is_dir():
            return True
    except (OSError, RuntimeError):  # a part of the path is too long; no such ~user
        fail("BAD_PATH")
    return source.count("/") != 1 or source[0] in "/.~"


def _texts(documents: Iterable[str], samples: int, length: int, generator: torch.Generator) -> list[str]:
    """Enough documents for ``samples`` windows of at most ``length`` characters, cut up where there is plenty."""
    enough, total, chosen = PLENTY * samples * length, 0, []
    for document in documents:
        chosen.append(document)
        total += min(len(document), length)
        if total >= enough:
            break
    if sum(map(len, chosen)) <= enough:
        return chosen
    pieces = [text[start : start + length] for text in chosen for start in range(0, len(text), length)]
    return _shuffled(pieces, generator)


def _shuffled(items: list[str], generator: torch.Generator) -> list[str]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


class _Drawn:
    """Windows of the texts given so far, in the order in which they are to be used."""

    def __init__(self, seqlen: int, end: int | None, generator: torch.Generator) -> None:
        self.seqlen, self.end, self.generator = seqlen, [] if end is None else [end], generator
        self.windows: list[list[int]] = []
        self.further: list[list[list[int]]] = []  # of each long text, after its first window
        self.joined: list[int] = []  # short texts, not yet a window
        self.tokens = 0

    def add(self, tokens: list[int]) -> None:
        self.tokens += len(tokens)
        if len(tokens) >= self.seqlen:
            first, *others = self._cut(tokens)
            self.windows.append(first)
            self.further.append(others)
            return
        self.joined += tokens + self.end
        while len(self.joined) >= self.seqlen:
            self.windows.append(self.joined[: self.seqlen])
            del self.joined[: self.seqlen]

    def all(self) -> list[list[int]]:
        turns = zip_longest(*self.further)
        return self.windows + [window for turn in turns for window in turn if window is not None]

    def _cut(self, tokens: list[int]) -> list[list[int]]:
        """All windows of a text from a random first token on, in random order."""
        count, rest = divmod(len(tokens), self.seqlen)
        start = int(torch.randint(rest + 1, (), generator=self.generator))
        order = torch.randperm(count, generator=self.generator).tolist()
        return [tokens[start + k * self.seqlen : start + (k + 1) * self.seqlen] for k in order]
