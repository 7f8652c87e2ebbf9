"""From the command line to a listening server: flags, port, door, one line that says where it is.

Gradio reads a dozen ``GRADIO_...`` variables, among them ones that open a public link or a folder. They are all taken
out of the environment before it is imported: what was typed is what happens.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quip_engine.config import check_number
from quip_engine.errors import QuipError, fail
from quip_engine.files import data_home
from quip_engine.process import wait_patiently

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from app.door import Door

PORT = 7860


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C. Exit status 0, or 2 when a flag cannot be followed."""
    flags = _parser().parse_args(arguments)
    try:
        password = _password(flags)
        _make_home((flags.data_dir or data_home()).expanduser().absolute())
        listener, taken = _listen(flags.host or ("0.0.0.0" if flags.listen else "127.0.0.1"), flags.port)
    except QuipError as error:
        print(f"{error.message} {error.hint} ({error.code})", file=sys.stderr)
        return 2
    if taken:
        print(f"Port {PORT} is in use; taking {listener.getsockname()[1]} instead.", file=sys.stderr)
    _quiet_environment(flags)
    _serve(flags, listener, password)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py", description="QuIP Studio: make language models small, in the browser."
    )
    parser.add_argument("--host", help="address to bind (default: 127.0.0.1, this computer only)")
    parser.add_argument("--port", type=int, help=f"port to bind (default: {PORT}, or a free one if it is in use)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--offline", action="store_true", help="never open a connection to the hub")
    parser.add_argument("--data-dir", type=Path, help="runs, history and models (default: ~/.quip-studio)")
    parser.add_argument("--listen", action="store_true", help="let other computers connect; needs --password-file")
    parser.add_argument("--password-file", type=Path, help="file with the password that lets others in")
    return parser


def _password(flags: argparse.Namespace) -> str | None:
    """The password, if one is asked for. Without one nobody but this computer may connect."""
    local = flags.host in (None, "127.0.0.1", "localhost", "::1")
    if not local and not flags.listen:
        fail("BAD_SETTING", field="--host", value=flags.host, allowed="127.0.0.1, or any address with --listen")
    if flags.password_file is None:
        if flags.listen:
            fail("BAD_SETTING", field="--listen", value="no password", allowed="--listen --password-file FILE")
        return None
    try:
        password: str = flags.password_file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        password = ""
    if len(password) < 8:
        fail("BAD_SETTING", field="--password-file", value=str(flags.password_file), allowed="8 characters or more")
    return password


def _make_home(home: Path) -> None:
    """Make the data directory. Raises ``OUTPUT_NOT_WRITABLE``."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail("OUTPUT_NOT_WRITABLE", path=home, reason=error.strerror or str(error))
    if not os.access(home, os.W_OK | os.X_OK):
        fail("OUTPUT_NOT_WRITABLE", path=home, reason="no permission")


def _listen(host: str, port: int | None) -> tuple[socket.socket, bool]:
    """A listening socket, and whether the default port was taken. Raises ``BAD_SETTING`` and ``PORT_BUSY``."""
    check_number("--port", PORT if port is None else port, 0, 65535, whole=True)
    try:
        return _bind(host, PORT if port is None else port), False
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            fail("BAD_SETTING", field="--host", value=host, allowed="an address of this computer", details=str(error))
        if port is not None:
            fail("PORT_BUSY", port=port, details=str(error))
        return _bind(host, 0), True


def _bind(host: str, port: int) -> socket.socket:
    # asyncio lets a head and its body leave at once (no Nagle: 40 ms for each answer) only where TCP is named
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # from now on nobody else gets it, and early visitors wait
    except OSError:
        listener.close()
        raise
    return listener


def _quiet_environment(flags: argparse.Namespace) -> None:
    """Flags win over variables, and libraries neither call home nor print."""
    for name in [n for n in os.environ if n.startswith("GRADIO_")]:
        del os.environ[name]
    home = (flags.data_dir or data_home()).expanduser().absolute()
    os.environ["QUIP_STUDIO_HOME"] = str(home)  # for the workers too
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(home / "uploads")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells of every broken upload
    wait_patiently()
    if flags.offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


def _serve(flags: argparse.Namespace, listener: socket.socket, password: str | None) -> None:
    import gradio as gr  # noqa: PLC0415 - after the environment is settled
    import uvicorn  # noqa: PLC0415
    from fastapi import FastAPI  # noqa: PLC0415

    from app import live_plot  # noqa: PLC0415
    from app.calls import Calls  # noqa: PLC0415
    from app.door import Door, read_secret  # noqa: PLC0415
    from app.first_word import FirstWord  # noqa: PLC0415
    from app.guard import Guard, own_names  # noqa: PLC0415
    from app.main import build, first_word, launch_options  # noqa: PLC0415
    from app.studio import Studio  # noqa: PLC0415
    from app.uploads import Uploads  # noqa: PLC0415

    host, port = listener.getsockname()[:2]
    home = data_home()
    door = Door(read_secret(home), port, password)
    studio = Studio(home, flags.offline, f"{host}:{port}")
    studio.follower.watch()
    gr.set_static_paths([live_plot.PLOTLY_DIR])
    blocks = build(studio)
    page = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        "/",
        server_name=host,
        server_port=port,
        auth=None,  # the door's
        app_kwargs={"openapi_url": None},
        **launch_options(),
    )
    names = {host} | (own_names() if flags.listen else set())
    inner = Uploads(Calls(FirstWord(page, partial(first_word, studio)), blocks), home / "uploads")
    server = _server(uvicorn, Guard(inner, door, names), lambda: _announce(flags, host, port, door))
    server.run(sockets=[listener])


def _server(uvicorn: Any, app: ASGIApp, ready: Callable[[], None]) -> Any:
    class Server(uvicorn.Server):
        """Says where it is once it really answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    quiet = {"log_level": "critical", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, ws="none", proxy_headers=False, timeout_graceful_shutdown=2, **quiet)
    return Server(config)


def _announce(flags: argparse.Namespace, host: str, port: int, door: Door) -> None:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{name}:{port}/?token="
    print(f"QuIP Studio is ready: {url}{door.key}  (Ctrl-C ends it; a run goes on without it)", flush=True)
    if not flags.no_browser:
        threading.Thread(target=webbrowser.open, args=(url + door.ticket(),), daemon=True).start()
