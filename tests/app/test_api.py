import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app import api
from app.studio import Studio

DEMO = str(Path(__file__).parents[2] / "assets" / "demo-model")
NAMES = {"list_models", "start_run", "run_status", "pause_run", "resume_run"}
NAMES |= {"evaluate", "evaluation_status", "generate"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with gr.Blocks(analytics_enabled=False) as blocks:
        api.add(Studio(tmp_path_factory.mktemp("home")))
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    yield Client(url, verbose=False)
    blocks.close()


def until(client: Client, name: str, endpoint: str, wanted: tuple[str, ...]) -> dict:
    deadline = time.monotonic() + 300
    while (told := client.predict(name, api_name=endpoint))["status"] not in wanted:
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    return told


def test_endpoints_are_named_and_typed(client):
    found = client.view_api(return_format="dict")["named_endpoints"]
    assert {name.strip("/") for name in found} == NAMES
    bits = next(p for p in found["/start_run"]["parameters"] if p["parameter_name"] == "bits")
    assert (bits["python_type"]["type"], bits["parameter_default"]) == ("float", 2.0)


def test_a_program_quantizes_measures_and_asks(client):
    assert DEMO in [model["model"] for model in client.predict(api_name="/list_models")]
    run = client.predict(DEMO, "nearest", 4.0, samples=4, seqlen=32, api_name="/start_run")
    done = until(client, run["id"], "/run_status", ("done", "failed"))
    assert (done["status"], done["layers"], done["of"]) == ("done", 35, 35)
    assert 4 < done["bits_per_weight"] < 4.6
    measured = client.predict(done["out"], DEMO, seqlen=64, windows=2, api_name="/evaluate")
    result = until(client, measured["id"], "/evaluation_status", ("done", "failed"))
    assert result["status"] == "done"
    answer = client.predict(done["out"], "The old house", max_tokens=4, api_name="/generate")
    assert (answer["tokens"], answer["end"]) == (4, "length")


@pytest.mark.parametrize(
    ("endpoint", "given", "code"),
    [
        ("/start_run", {"model": "/nowhere"}, "NOT_FOUND"),
        ("/start_run", {"model": "x" * 5000}, "BAD_"),
        ("/start_run", {"model": DEMO, "method": "x" * 5000}, "BAD_"),
        ("/start_run", {"model": DEMO, "bits": 99.0}, "BAD_SETTING"),
        ("/start_run", {"model": DEMO, "options": {"made": "up"}}, "BAD_"),
        ("/start_run", {"model": DEMO, "samples": 0}, "BAD_SETTING"),
        ("/evaluate", {"model": DEMO, "text": "/" + "a" * 5000}, "BAD_PATH"),
        ("/run_status", {"run_id": "../../etc"}, "RUN_NOT_FOUND"),
        ("/evaluation_status", {"evaluation_id": "eval-999"}, "EVALUATION_NOT_FOUND"),
        ("/generate", {"model": DEMO, "prompt": "a", "temperature": -1.0}, "BAD_SETTING"),
        ("/generate", {"model": DEMO, "prompt": "a" * 100_001}, "BAD_SETTING"),
    ],
)
def test_errors_begin_with_their_code(client, endpoint, given, code):
    with pytest.raises(AppError) as caught:
        client.predict(**given, api_name=endpoint)
    assert str(caught.value).startswith(code)
