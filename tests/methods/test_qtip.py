from pathlib import Path

import pytest
from safetensors.torch import load_file

from quip_engine.config import RecipeConfig
from quip_engine.layer import quantize_weight
from quip_engine.methods.registry import alone, resolve

# Measured at L = 12, mean of seeds 0-2: .00679 .00966 .01757 .01132; quantile at L = 16: .00660 .00948 .01723 .01108.
LIMITS = {"P1": 0.0072, "P3": 0.0102, "P4_q": 0.0179, "P4_up": 0.0115}


@pytest.mark.parametrize("file", LIMITS)
def test_two_bits(reference: Path, file: str) -> None:
    tensors = load_file(reference / "problems" / f"{file}.safetensors")
    report = quantize_weight(tensors["W"], tensors["H"], resolve(alone(RecipeConfig("qtip", 2))), seed=0).report
    assert report.rel_proxy < LIMITS[file]
    assert report.bits_per_weight < 2.01


def test_256_values_up_to_3_bits() -> None:
    codes = [resolve(RecipeConfig("qtip", bits)).codebook.to_json()["code"] for bits in (1, 2, 3, 4)]
    assert codes == ["levels", "levels", "levels", "quantile"]


def test_the_published_form_can_be_asked_for() -> None:
    published = RecipeConfig(
        "qtip",
        4,
        options={"L": "16", "code": "hyb", "scale": "0.9", "metric": "false", "sweeps": "0", "hessian": "plain"},
    )
    recipe = resolve(published)
    assert recipe.codebook.to_json() == {"name": "trellis", "bits": 4, "L": 16, "code": "hyb", "scale": 0.9}
    assert recipe.rounding.to_json()["metric"] is False
