"""What a person has set once for all visits: plain values in ``settings.json`` of the data directory.

The token for the hub is not among them. It lies where all programs of the hub look for it, readable by its owner only,
and is never read back into a page.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import constants, get_token

from quip_engine.config import DEVICES, check_number
from quip_engine.errors import QuipError, fail
from quip_engine.files import write_json

LONGEST_TOKEN = 256
ALL_THREADS = torch.get_num_threads()  # what PyTorch takes by itself


@dataclass(frozen=True)
class Settings:
    """``threads``: None is all cores. Raises ``BAD_SETTING``."""

    offline: bool = False
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.offline, bool):
            fail("BAD_SETTING", field="offline", value=repr(self.offline)[:40], allowed="yes or no")
        if self.device not in DEVICES:
            fail("BAD_SETTING", field="device", value=repr(self.device)[:40], allowed=", ".join(DEVICES))
        if self.threads is not None:
            check_number("threads", self.threads, 1, 1024, whole=True)

    def apply(self) -> None:
        """Let this process follow them, and the workers that it will start."""
        torch.set_num_threads(self.threads or ALL_THREADS)
        constants.HF_HUB_OFFLINE = self.offline
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            if self.offline:
                os.environ[name] = "1"
            else:
                os.environ.pop(name, None)


class SettingsFile:
    def __init__(self, home: Path) -> None:
        self._file = home / "settings.json"

    def load(self) -> Settings:
        """The defaults where there is no file, or none that this version understands."""
        try:
            return Settings(**json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, QuipError):
            return Settings()

    def save(self, settings: Settings) -> None:
        write_json(self._file, asdict(settings))


def has_token() -> bool:
    return get_token() is not None


def store_token(token: str) -> None:
    """Keep a token of the hub, or forget the one there is where ``token`` is empty. Raises ``BAD_SETTING``."""
    text, path = token.strip(), Path(constants.HF_TOKEN_PATH)
    if not text:
        path.unlink(missing_ok=True)
        return
    if len(text) > LONGEST_TOKEN or not text.isascii() or not text.replace("_", "").replace("-", "").isalnum():
        fail("BAD_SETTING", field="token", value="what was given", allowed="letters, digits, _ and -, as in hf_…")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)  # it may have been there with another mode
    path.write_text(text, encoding="utf-8")
