"""What the page says before Gradio has built it, and a script that runs before any of Gradio's.

Gradio takes seconds to build a page of this size. What is at work is said at once, in the place where the strip will
say it, and goes when the strip is there.

Gradio's loading screen counts seconds for ever: its timer asks for a frame in every frame and outlives the screen
(gradio 6.31): sixty frames a second are laid out and painted for nothing, a third of what a live run may cost the page.
What Gradio lets one put into a page comes too late, since its code has taken ``requestAnimationFrame`` by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from string import Template

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A timer's frame is told by its source; it comes once a second instead.
SCRIPT = b"""<script>{
  const ask = requestAnimationFrame.bind(window);
  window.requestAnimationFrame = f => String(f).includes('(performance.now()-') ? setTimeout(ask, 1000, f) : ask(f);
}</script>"""
WORD = Template("""<style>
#first-word { position: fixed; inset: 0 0 auto; z-index: 60; box-sizing: border-box; min-height: 56px;
  padding: 18px var(--gutter); font: 13px var(--sans); color: var(--ink-2); background: var(--surface);
  border-bottom: 1px solid var(--line); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
#first-word .job { padding: 0; border: 0; } #first-word .job > * { margin-right: 12px; }
#first-word .track { display: none; }
</style><div id="first-word">$word</div><script>{
  const wait = setInterval(() => {
    if (!document.querySelector('#job .what')) return;
    document.getElementById('first-word').remove();
    clearInterval(wait);
  }, 50);
}</script>""")
BODY = re.compile(rb"<body[^>]*>")


class FirstWord:
    """ASGI middleware: the page at ``/`` begins with SCRIPT, and what it shows with ``word()``, markup."""

    def __init__(self, app: ASGIApp, word: Callable[[], str]) -> None:
        self.app, self.word = app, word

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            return await self.app(scope, receive, send)
        word = await run_in_threadpool(self.word)  # it waits for the lock of what the page shows
        begun: list[Message] = []
        parts: list[bytes] = []

        async def whole(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = _with_words(b"".join(parts), word)
                headers = MutableHeaders(scope=begun[0])
                if "content-length" in headers:
                    headers["content-length"] = str(len(body))
                await send(begun[0])
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, whole)


def _with_words(body: bytes, word: str) -> bytes:
    said = WORD.substitute(word=word).encode()
    body = BODY.sub(lambda tag: tag[0] + said, body, count=1)
    return body.replace(b"<head>", b"<head>" + SCRIPT, 1)
