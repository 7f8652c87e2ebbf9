"""Models in a real Chromium, over a hub on this machine: search, a download cut and continued, the mark of the app.

The page may ask nobody but its server; the server asks the small hub that stands in for the real one.
"""

# ruff: noqa: F811 - fixtures come by import

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub
from test_browser import ROOT, Visitor, serve, visitor  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SLOW = 400_000  # bytes a second: the demo model takes 25 s


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """Three models, one of them of an unknown architecture, one behind a gate."""
    folder = tmp_path_factory.mktemp("hub")
    with fake_hub() as hub:
        for name in ("tiny-story", "tiny-mamba", "tiny-gated"):
            hub.models[f"owner/{name}"] = Path(shutil.copytree(ROOT / "assets" / "demo-model", folder / name))
        config = folder / "tiny-mamba" / "config.json"
        other = {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
        config.write_text(json.dumps(json.loads(config.read_text()) | other))
        hub.gated.add("owner/tiny-gated")
        yield hub


@pytest.fixture(scope="module")
def server(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("HF_HUB_CACHE", raising=False)
        with serve(tmp_path_factory.mktemp("home"), online=True) as address:
            yield address


def going(visitor: Visitor) -> str:
    found = visitor.page.locator("#downloads")
    return found.inner_text() if found.count() else ""


def test_from_a_word_to_a_model_that_is_here(visitor: Visitor, hub: FakeHub) -> None:
    page = visitor.page
    visitor.until(lambda: "Qwen/Qwen3-4B" in page.inner_text("#shelf"), 120, "what would fit here")
    assert page.locator("#shelf [data-action^='get:']:not([disabled])").count() == 8
    page.locator("#other-model input").fill("tiny")
    page.click("#search")
    visitor.until(lambda: page.locator("#results tbody tr").count() == 3, 60, "three are found")
    assert "MambaForCausalLM is not supported" in page.inner_text("#results")

    page.locator("#results [data-action='check:owner/tiny-story']").click()
    visitor.until(lambda: page.locator("#get").is_visible(), 60, "what it is")
    assert "LlamaForCausalLM" in page.inner_text("#verdict")
    assert "10.2 MB in 5 files" in page.inner_text("#verdict")
    assert hub.asked == []

    hub.bytes_per_second = SLOW
    page.click("#get")
    visitor.until(lambda: "/s ·" in going(visitor), 60, "bytes, speed and time left")
    page.locator("#downloads [data-action^='cancel:']").click()
    took = visitor.until(lambda: "are kept" in going(visitor), 30, "Cancel is heard")
    print(f"Cancel was seen after {took:.1f} s")
    visitor.reload()
    visitor.until(lambda: "are kept" in going(visitor), 60, "it is still offered")
    hub.bytes_per_second = 0
    page.locator("#downloads [data-action^='get:']").click()
    visitor.until(lambda: "Done" in going(visitor), 60, "the rest arrives")
    assert any(method == "GET" and not ask.endswith("=0-") for method, _, ask in hub.asked)
    page.get_by_text("On this computer (2)").click()
    visitor.until(lambda: page.locator("#shelf [data-action='use:owner/tiny-story']").is_visible(), 30, "it is listed")
    page.locator("#shelf [data-action='use:owner/tiny-story']").click()
    visitor.until(lambda: "tiny-story" in page.inner_text("#command"), 60, "Quantize takes it")


def test_a_gate_is_explained_and_it_can_be_installed(visitor: Visitor) -> None:
    page = visitor.page
    page.locator("#other-model input").fill("owner/tiny-gated")
    page.click("#check")
    visitor.until(lambda: "to be accepted on its page first" in page.inner_text("#verdict"), 60, "the licence")
    page.click("#get")
    visitor.until(lambda: "HUB_GATED" in going(visitor), 60, "the banner")
    page.locator("#downloads [data-action='remove:owner/tiny-gated']").click()
    visitor.until(lambda: "HUB_GATED" not in going(visitor), 30, "it is taken off")

    found = page.context.new_cdp_session(page).send("Page.getAppManifest")
    assert found["errors"] == []
    manifest = json.loads(found["data"])
    assert (manifest["name"], manifest["display"]) == ("QuIP Studio", "standalone")
    icon = page.request.get(visitor.url + manifest["icons"][0]["src"])
    assert icon.headers["content-type"] == "image/svg+xml"
    assert "<title>QuIP Studio</title>" in icon.text()
