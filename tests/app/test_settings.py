import os
import stat
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from app import settings as kept
from app.settings import Settings, SettingsFile, has_token, store_token
from app.studio import Studio
from app.tabs.settings import diagnostics, facts
from quip_engine.errors import QuipError


@pytest.fixture(autouse=True)
def _undone(monkeypatch):
    """What settings change in the process is put back."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def token_path(tmp_path, monkeypatch):
    path = tmp_path / "hub" / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
    monkeypatch.setattr(kept, "get_token", lambda: path.read_text() if path.exists() else None)
    return path


def test_settings_are_found_again_and_followed(tmp_path):
    Studio(tmp_path).set(Settings(offline=True, device="cpu", threads=1))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE
    assert torch.get_num_threads() == 1
    again = Studio(tmp_path)
    assert (again.offline, again.settings.device, again.settings.threads) == (True, "cpu", 1)
    again.set(Settings())
    assert "HF_HUB_OFFLINE" not in os.environ
    assert not constants.HF_HUB_OFFLINE


def test_no_setting_lifts_what_the_command_line_forbids(tmp_path):
    studio = Studio(tmp_path, never_online=True)
    studio.set(Settings(offline=False))
    assert studio.offline
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert SettingsFile(tmp_path).load() == Settings()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"threads": "many"}', '{"device": "mars"}', '{"unknown": 1}'])
def test_a_damaged_file_gives_the_defaults(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    assert SettingsFile(tmp_path).load() == Settings()


@pytest.mark.parametrize("bad", [{"offline": "no"}, {"device": ["cpu"]}, {"threads": 0}, {"threads": 1.5}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(QuipError) as caught:
        Settings(**bad)
    assert caught.value.code == "BAD_SETTING"


def test_a_token_is_for_its_owner_only(token_path):
    assert not has_token()
    store_token("  hf_abcDEF123 ")
    assert token_path.read_text() == "hf_abcDEF123"
    assert stat.S_IMODE(token_path.stat().st_mode) == 0o600
    assert has_token()
    store_token("")
    assert not token_path.exists()


@pytest.mark.parametrize("bad", ["hf abc", "hf_\nabc", "hf_é", "x" * 257, "<script>"])
def test_what_is_no_token_is_refused_and_not_repeated(token_path, bad):
    with pytest.raises(QuipError) as caught:
        store_token(bad)
    assert bad not in caught.value.message
    assert not token_path.exists()


def test_diagnostics_name_no_folder_and_no_token(tmp_path, token_path):
    store_token("hf_secret")
    studio = Studio(tmp_path, address="127.0.0.1:7860")
    text = diagnostics(studio)
    assert "torch" in text
    assert str(tmp_path) not in text
    assert "hf_secret" not in text
    assert dict(facts(studio))["Reachable from"] == "this computer only"
    assert dict(facts(SimpleNamespace(address="0.0.0.0:7860")))["Reachable from"].startswith("the network")
