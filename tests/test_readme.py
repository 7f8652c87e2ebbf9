"""What the README shows is what happens."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quip_engine.codebooks import codebooks
from quip_engine.methods import presets_by_age
from quip_engine.methods.registry import listed_bits
from quip_engine.probe.settings import SUPPORTED
from quip_engine.rounding import rounders
from quip_engine.transforms import transforms

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def code(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the engine with the README's codebook as one more file."""
    folder = tmp_path_factory.mktemp("engine")
    shutil.copytree(ROOT / "quip_engine", folder / "quip_engine", ignore=shutil.ignore_patterns("__pycache__"))
    codebook, _ = code(section("Add a method"))
    (folder / "quip_engine" / "codebooks" / "ternary.py").write_text(codebook, encoding="utf-8")
    return folder


def run(engine: Path, *arguments: object) -> str:
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(words, cwd=engine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(engine: Path, *arguments: object) -> dict[str, Any]:
    return json.loads(run(engine, "-m", "quip_engine", *arguments, "--json").splitlines()[-1])


def test_a_codebook_is_one_file(engine: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 48, generator=generator) @ torch.randn(48, 48, generator=generator)
    save_file({"W": torch.randn(64, 48, generator=generator), "H": X.T @ X / 400}, tmp_path / "problem.safetensors")
    arguments = ("layer", tmp_path / "problem.safetensors", "--bits", 1.6, "--codebook", "ternary")
    feedback = command(engine, *arguments, "--option", "reach=1.3")
    nearest = command(engine, *arguments, "--rounding", "nearest")
    assert feedback["rel_proxy"] < 0.7 * nearest["rel_proxy"]  # measured: 0.50
    assert feedback["bits_per_weight"] > 1.6
    assert feedback["rel_proxy_bound"] < feedback["rel_proxy"]


def test_its_distortion_is_that_of_three_levels(engine: Path) -> None:
    """The best three even levels for a standard Gaussian: step 1.224, error .1902 (J. Max, 1960)."""
    result = command(engine, "codebook", "ternary", "--samples", 2**18)
    assert result["mse"] == pytest.approx(0.1902, abs=0.002)


def test_the_example_of_its_use_runs(engine: Path) -> None:
    _, example = code(section("Add a method"))
    assert run(engine, "-c", example).startswith("hadamard × ternary × ldlq LayerReport(bits_per_weight=1.7")


def test_every_preset_is_in_the_table() -> None:
    """With its recipe, its bits and its options."""
    lines = [line.strip().strip("|").split("|") for line in section("Methods").splitlines() if line.startswith("| `")]
    rows = {name.strip(" `"): cells for name, *cells in lines}
    assert list(rows) == [preset.name for preset in presets_by_age()]
    for preset in presets_by_age():
        recipe, bits, options, _ = (cell.strip() for cell in rows[preset.name])
        assert recipe.startswith(str(preset().recipe(2)))
        assert bits == listed_bits(preset.bits)
        assert options == ", ".join(f"`{info.key}`" for info in preset.options())


def test_every_architecture_is_named() -> None:
    named = " ".join(section("From the command line").split())
    assert [name for name in SUPPORTED.values() if name.removesuffix(" (encoder)") not in named] == []


@pytest.mark.parametrize(
    ("folder", "registry"), [("transforms", transforms), ("codebooks", codebooks), ("rounding", rounders)]
)
def test_every_part_is_in_the_structure(folder: str, registry: Any) -> None:
    listed = re.search(rf"^  {folder}/ +(.*)$", section("Structure"), re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split(", ")) == set(registry.names())


def test_a_checkpoint_loads_in_three_lines(tmp_path: Path, home: Path, assets: Path) -> None:
    quick = ("--method", "nearest", "--bits", 4, "--samples", 4, "--seqlen", 64)
    command(ROOT, "quantize", assets / "demo-model", "--out", tmp_path / "demo-2bit", *quick)
    (lines,) = code(section("From the command line"))
    script = tmp_path / "load.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{lines}\nprint(model.model.layers[0])\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "QuantizedLinear" in done.stdout and lines.count("\n") <= 4
