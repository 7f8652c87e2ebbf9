"""Calls that cannot be meant are refused before Gradio sees them; the others arrive as they were sent."""

import asyncio
import json

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.calls import Calls, CarefulBlocks, kinds_of_choice
from app.uploads import UPLOAD
from quip_engine.errors import QuipError


@pytest.fixture(scope="module")
def calls():
    def pressed(event: gr.EventData):
        return event

    def spoken(word: str) -> str:
        return word

    with CarefulBlocks(analytics_enabled=False) as blocks:
        text, number, switch = gr.Textbox(), gr.Number(), gr.Checkbox()
        choice = gr.Dropdown(["a", "b"], multiselect=True)
        button = gr.Button()
        private = {"api_visibility": "private"}
        button.click(lambda *given: None, [text, number, switch, choice], None, api_name="form", **private)
        button.click(pressed, None, None, api_name="pressed", **private)
        gr.api(spoken, api_name="spoken")

    async def gradio(scope, receive, send):
        body = await Request(scope, receive).body()
        status = 500 if b"refuse" in body else 200
        await JSONResponse(json.loads(body) if scope["path"] != UPLOAD else "as it is", status)(scope, receive, send)

    return Calls(gradio, blocks)


def post(calls, body, path="/gradio_api/run/predict"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = []

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", b"text/plain")]}
    asyncio.run(calls(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


GOOD = ["text", 1.5, True, ["a"]]


def test_a_call_that_fits_arrives_with_what_is_known(calls):
    body = {"data": GOOD, "fn_index": 0, "session_hash": "abc", "batched": True, "oauth_token": "x"}
    known = {"data": GOOD, "fn_index": 0, "session_hash": "abc", "event_data": None, "trigger_id": None}
    assert post(calls, body) == (200, known)
    assert post(calls, {"data": ["hi"]}, "/gradio_api/call/spoken") == (200, {"data": ["hi"]})
    assert post(calls, b"--x", UPLOAD) == (200, "as it is")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"data": 1, "fn_index": 0}'])
def test_what_is_no_call_is_refused(calls, body):
    status, told = post(calls, body)
    assert status == 422
    assert told["error"].startswith("BAD_REQUEST: ")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((0, v) for v in (None, 1, {}, ["a"], "a\0b", "\ud800", "\x1b[31m", "y" * 300_000)),
        *((1, v) for v in ("1", True, float("nan"), float("inf"), 10**40, [1])),
        *((2, v) for v in ("yes", 1, None, [True])),
        *((3, v) for v in ({}, [{}], [None], True, [[["a"]]], [1])),
    ],
)
def test_each_value_must_be_what_its_component_gives(calls, at, value):
    data = [value if k == at else v for k, v in enumerate(GOOD)]
    assert post(calls, {"data": data, "fn_index": 0, "session_hash": "s"})[0] == 422


@pytest.mark.parametrize("value", [None, -5, 10**15])
def test_an_emptied_number_is_all_right(calls, value):
    assert post(calls, {"data": ["", value, False, []], "fn_index": 0, "session_hash": "s"})[0] == 200


@pytest.mark.parametrize("change", [{"fn_index": 99}, {"fn_index": "0"}, {"fn_index": True}, {"fn_index": None}])
def test_there_must_be_such_a_function(calls, change):
    assert post(calls, {"data": GOOD, "fn_index": 0, "session_hash": "s", **change})[0] == 422


@pytest.mark.parametrize(
    "change", [{"session_hash": "a b"}, {"session_hash": 1}, {"trigger_id": "1"}, {"data": GOOD[:3]}]
)
def test_the_rest_of_a_call_is_checked_too(calls, change):
    assert post(calls, {"data": GOOD, "fn_index": 0, "session_hash": "s", **change})[0] == 422


@pytest.mark.parametrize("name", ["form", "none", "v2/spoken", ".."])
def test_only_public_functions_have_names(calls, name):
    assert post(calls, {"data": GOOD}, f"/gradio_api/call/{name}")[0] == 422


@pytest.mark.parametrize("event", [None, {}, "x", {"action": 1}])
def test_what_was_pressed_must_be_told(calls, event):
    body = {"data": [], "fn_index": 1, "session_hash": "s"}
    assert post(calls, {**body, "event_data": event})[0] == 422
    assert post(calls, {**body, "event_data": {"action": "use:a"}})[0] == 200


@pytest.mark.parametrize(
    ("choices", "custom", "kinds"),
    [
        (["a"], False, {str}),
        ([2, 3.5], False, {int, float}),
        (["auto", 2], False, {str, int, float}),
        ([], False, {str, int, float}),
        ([], True, {str}),
    ],
)
def test_choices_are_of_the_kind_that_is_offered(choices, custom, kinds):
    assert set(kinds_of_choice(gr.Dropdown(choices, allow_custom_value=custom))) == kinds


def test_a_refusal_is_no_failure_of_the_server(calls):
    assert post(calls, {"data": ["refuse", 1, True, []], "fn_index": 0, "session_hash": "s"})[0] == 422


@pytest.mark.parametrize("error", [QuipError("BUSY", "busy", "wait"), KeyError("k"), gr.Error("words")])
def test_functions_fail_in_words(error, capsys):
    def fails():
        raise error

    with CarefulBlocks(analytics_enabled=False) as blocks:
        gr.Button().click(fails, None, None)
    with pytest.raises(gr.Error) as caught:
        asyncio.run(blocks.process_api(0, [], None))
    defect = isinstance(error, KeyError)
    assert caught.value.message.startswith({True: "DEFECT: KeyError"}.get(defect, ("BUSY: busy wait", "words")))
    assert not caught.value.print_exception
    assert ("Traceback" in capsys.readouterr().err) == defect


def test_a_form_that_changes_a_thousand_times_leaves_nothing_behind():
    with CarefulBlocks(analytics_enabled=False) as blocks:
        word = gr.Textbox()
        word.change(lambda given: gr.update(value=given, info=given), word, word)
    session, form = SessionState(blocks), blocks.fns[0]

    async def changed(times: int) -> int:
        for k in range(times):
            found = await blocks.process_api(form, [str(k)], state=session)
            assert found["data"][0]["info"] == str(k)
        return len(session.blocks_config.blocks) + len(session.config_values)

    assert asyncio.run(changed(2)) == asyncio.run(changed(20))
