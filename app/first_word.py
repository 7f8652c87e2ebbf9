"""A script that runs in the page before any of Gradio's: its loading screen counts seconds for ever.

The timer of that screen asks for a frame in every frame and outlives the screen (gradio 6.31): sixty frames a second
are laid out and painted for nothing, a third of what a live run may cost the page. What Gradio lets one put into a page
comes too late, since its code has taken ``requestAnimationFrame`` by then.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A timer's frame is told by its source; it comes once a second instead.
SCRIPT = b"""<script>{
  const ask = requestAnimationFrame.bind(window);
  window.requestAnimationFrame = f => String(f).includes('(performance.now()-') ? setTimeout(ask, 1000, f) : ask(f);
}</script>"""


class FirstWord:
    """ASGI middleware: the page at ``/`` begins with SCRIPT."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            return await self.app(scope, receive, send)
        begun: list[Message] = []
        parts: list[bytes] = []

        async def whole(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = b"".join(parts).replace(b"<head>", b"<head>" + SCRIPT, 1)
                headers = MutableHeaders(scope=begun[0])
                if "content-length" in headers:
                    headers["content-length"] = str(len(body))
                await send(begun[0])
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, whole)
