"""What may be called, and with what: every function of the page behind one check of its arguments.

Gradio lists its functions by number and lets anybody who may talk to it call any of them, with any JSON: a dict for a
text, NaN for a slider, two megabytes for a name. Here a call is refused (422) unless it names a function, has as many
values as that function has inputs, and each value is of the kind that its component gives. What a value means is
checked by whoever uses it.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.blocks import Block, BlockFunction, Blocks
from gradio.components import UploadButton
from gradio.components.api_component import Api
from gradio.state_holder import SessionState
from gradio.utils import get_type_hints
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.state import explain
from app.uploads import UPLOAD
from quip_engine.errors import QuipError, fail, without_tokens

LONGEST = 200_000  # characters of one value
DEEPEST = 8  # lists and dicts within each other
LARGEST = 2**53  # the whole numbers that JSON keeps exactly
CALL = re.compile(r"/gradio_api/(run|call|queue)/(.*)", re.DOTALL)
OF_COMPONENT = "/gradio_api/component_server"
SESSION = re.compile(r"[\w-]{1,64}")
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # control characters, halves of pairs


class CarefulBlocks(gr.Blocks):
    """A page whose functions fail in words. A defect is printed, too; what was refused is not."""

    async def process_api(self, *given: Any, **named: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*given, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            told = explain(error)
            if told.code == "DEFECT":
                sys.stderr.write(without_tokens("".join(traceback.format_exception(error))))
            raise gr.Error(worded(told), print_exception=False) from error
        finally:
            keep_numbers(named.get("state"))


def keep_numbers(state: SessionState | None) -> None:
    """Give components that an event has updated their number back.

    Gradio builds each anew, under a new number, and from its next use on keeps it under that number, too, for ever:
    half a megabyte for every change in a form.
    """
    for number, block in state.blocks_config.blocks.items() if state else ():
        block._id = number


def worded(error: QuipError) -> str:
    """For programs: begins with the code."""
    return f"{error.code}: {error.message} {error.hint}".strip()


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that the script of a component calls: fails in words, too."""

    @wraps(function)
    def answer(given: Any) -> Any:
        try:
            return function(given)
        except (QuipError, KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, f"BAD_REQUEST: {type(error).__name__}: {error}") from error

    return answer


class Calls:
    """ASGI middleware before the routes of Gradio that take JSON."""

    def __init__(self, app: ASGIApp, blocks: Blocks) -> None:
        self.app, self.blocks = app, blocks
        hints = {id: get_type_hints(f.fn).values() for id, f in blocks.fns.items() if f.fn}
        self._pressed = {id for id, kinds in hints.items() if gr.EventData in kinds}  # told by what was pressed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or path == UPLOAD:
            return await self.app(scope, receive, send)
        try:
            body = self._checked(path, await Request(scope, receive).body())
        except QuipError as error:
            text = worded(error)
            return await JSONResponse({"error": text, "detail": text}, 422)(scope, receive, send)
        return await self.app(as_json(scope, body), Replay(body, receive), refusing(send))

    def _checked(self, path: str, body: bytes) -> bytes:
        """The body with nothing in it but what is known. Raises ``BAD_REQUEST``."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            fail("BAD_REQUEST", reason="the body is not JSON")
        if not isinstance(content, dict):
            fail("BAD_REQUEST", reason="the body is not an object")
        check_plain(content, "body", DEEPEST + 2)
        if match := CALL.fullmatch(path.rstrip("/")):
            content = self._call(match[1], match[2], content)
        elif path.rstrip("/") == OF_COMPONENT:
            content = self._of_component(content)
        return json.dumps(content).encode()

    def _call(self, how: str, name: str, content: dict[str, Any]) -> dict[str, Any]:
        session, data = content.get("session_hash"), content.get("data")
        if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
            fail("BAD_REQUEST", reason="session_hash is not one")
        if not isinstance(data, list):
            fail("BAD_REQUEST", reason="data is not a list")
        function = self._function(how, name, content.get("fn_index"))
        inputs = function.inputs if how != "call" else [block for block in function.inputs if not block.skip_api]
        if len(data) != len(inputs):
            fail("BAD_REQUEST", reason=f"{len(inputs)} values are needed, {len(data)} were given")
        for k, (block, value) in enumerate(zip(inputs, data, strict=True)):
            check_value(block, value, f"value {k + 1}")
        if how == "call":
            return {"data": data}
        event, trigger = content.get("event_data"), content.get("trigger_id")
        if function._id in self._pressed and not (isinstance(event, dict) and isinstance(event.get("action"), str)):
            fail("BAD_REQUEST", reason="event_data does not tell what was pressed")
        if not (trigger is None or is_whole(trigger)):
            fail("BAD_REQUEST", reason="trigger_id is no number")
        known = {"data": data, "fn_index": function._id, "session_hash": session}
        return {**known, "event_data": event if isinstance(event, dict) else None, "trigger_id": trigger}

    def _of_component(self, content: dict[str, Any]) -> dict[str, Any]:
        known = {key: content.get(key) for key in ("session_hash", "component_id", "fn_name", "data")}
        session, number, name = known["session_hash"], known["component_id"], known["fn_name"]
        if not (isinstance(session, str) and SESSION.fullmatch(session)):
            fail("BAD_REQUEST", reason="session_hash is not one")
        block = self.blocks.blocks.get(number) if is_whole(number) else None
        if not (isinstance(name, str) and getattr(getattr(block, name, None), "_is_server_fn", False)):
            fail("BAD_REQUEST", reason="there is no such function")
        return known

    def _function(self, how: str, name: str, index: Any) -> BlockFunction:
        functions = self.blocks.fns
        if how != "call" and is_whole(index) and index in functions and functions[index].fn is not None:
            return functions[index]
        named = (f for f in functions.values() if how == "call" and f.api_name == name and f.api_visibility == "public")
        if found := next(named, None):
            return found
        fail("BAD_REQUEST", reason="there is no such function")


def check_value(block: Block, value: Any, what: str) -> None:
    """A component may have given this value. Raises ``BAD_REQUEST``."""
    if isinstance(block, gr.State | Api):
        return  # kept by the server; checked by what is called
    if value is None and isinstance(block, gr.Number | gr.Radio | gr.Dropdown):
        return  # emptied, or nothing chosen
    kinds: dict[type[Block], tuple[type, ...]] = {
        **{gr.Textbox: (str,), gr.Checkbox: (bool,), UploadButton: (dict,)},  # Gradio looks it up among the uploads
        **{gr.Number: (int, float), gr.Slider: (int, float)},
    }
    allowed = next((kind for component, kind in kinds.items() if isinstance(block, component)), ())
    if isinstance(block, gr.Radio | gr.Dropdown):
        allowed = kinds_of_choice(block)
    several = value if isinstance(value, list) and getattr(block, "multiselect", False) else [value]
    if not all(isinstance(v, allowed) and (bool in allowed or not isinstance(v, bool)) for v in several):
        fail("BAD_REQUEST", reason=f"{what} is not what a {type(block).__name__.lower()} gives")


def kinds_of_choice(block: gr.Radio | gr.Dropdown) -> tuple[type, ...]:
    """What is offered changes, of which kind it is does not; one that offers nothing yet may come to offer either."""
    offered = [value for _, value in block.choices]
    words = any(isinstance(value, str) for value in offered) or getattr(block, "allow_custom_value", False)
    numbers = any(isinstance(value, int | float) for value in offered)
    return (*((str,) if words or not numbers else ()), *((int, float) if numbers or not words else ()))


def check_plain(value: Any, what: str, deep: int = DEEPEST) -> None:
    """Texts of readable characters, exact numbers, nothing too long or too deep. Raises ``BAD_REQUEST``."""
    if isinstance(value, str) and (len(value) > LONGEST or FORBIDDEN.search(value)):
        fail("BAD_REQUEST", reason=f"{what} holds a text that is too long or cannot be read")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:  # NaN, too
        fail("BAD_REQUEST", reason=f"{what} holds a number that is too large or none")
    if isinstance(value, list | dict):
        if deep == 0:
            fail("BAD_REQUEST", reason=f"{what} is nested too deeply")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            check_plain(inner, what, deep - 1)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_json(scope: Scope, body: bytes) -> Scope:
    """The request with its new body: as JSON, of this length."""
    told = (b"content-length", b"content-type", b"transfer-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name not in told]
    new = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return {**scope, "headers": kept + new}


class Replay:
    """Gives a body that was read already, then goes on listening."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def refusing(send: Send) -> Send:
    """Gradio says 500 where a function refused its values; by HTTP that is 422."""

    async def answer(message: Message) -> None:
        json_error = message.get("status") == 500 and (b"content-type", b"application/json") in message["headers"]
        await send({**message, "status": 422} if json_error else message)

    return answer
