"""Flags mean what they say, before anything heavy is loaded."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import serve

pytestmark = pytest.mark.usefixtures("home")


def refused(capsys, *flags: str) -> str:
    assert serve.main(flags) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--listen"], ["--host", "0.0.0.0"], ["--host", "192.168.0.7"]])
def test_others_may_only_connect_with_a_password(capsys, flags):
    assert "BAD_SETTING" in refused(capsys, *flags)


@pytest.mark.parametrize("content", [None, "", "short"])
def test_a_weak_or_missing_password_is_refused(capsys, tmp_path, content):
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    assert "password-file" in refused(capsys, "--listen", "--password-file", str(file))


def test_a_port_that_was_asked_for_is_taken_or_refused(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert "PORT_BUSY" in refused(capsys, "--port", str(port))
    assert "0 to 65535" in refused(capsys, "--port", "99999")


def test_an_address_of_another_computer_is_refused(capsys, tmp_path):
    (tmp_path / "password").write_text("long enough")
    flags = ["--listen", "--password-file", str(tmp_path / "password"), "--host", "203.0.113.1", "--port", "0"]
    assert "an address of this computer" in refused(capsys, *flags)


def test_a_data_directory_that_cannot_be_made_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "OUTPUT_NOT_WRITABLE" in refused(capsys, "--data-dir", str(tmp_path / "file" / "home"))


def test_the_default_port_gives_way(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(serve, "PORT", other.getsockname()[1])
        listener, taken = serve._listen("127.0.0.1", None)
        with listener:
            assert taken
            assert listener.getsockname()[1] != serve.PORT


def test_answers_do_not_wait_to_be_acknowledged():
    async def without_delay() -> int:
        listener, _ = serve._listen("127.0.0.1", 0)
        accepted = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener):
            _, caller = await asyncio.open_connection(*listener.getsockname())
            answering = await accepted
            option = answering.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            caller.close()
            answering.close()
        return option

    assert asyncio.run(without_delay())


def test_wrong_flags_are_told_within_a_moment():
    code = "import sys; from app import serve; serve.main(['--listen']); print('gradio' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"
