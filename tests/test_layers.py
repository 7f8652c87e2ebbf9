"""The architecture as a rule: a module imports its own layer or a lower one, and the engine knows no screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# First match wins; a folder stands for all its modules.
LAYERS = [
    (0, ["quip_engine", "quip_engine.errors", "quip_engine.config", "quip_engine.events", "quip_engine.files"]),
    (0, ["quip_engine.parts", "quip_engine.process"]),
    (1, ["quip_engine.linalg", "quip_engine.native"]),
    (2, ["quip_engine.transforms", "quip_engine.codebooks", "quip_engine.rounding"]),
    (3, ["quip_engine.methods", "quip_engine.products", "quip_engine.layer", "quip_engine.linear"]),
    (5, ["quip_engine.runs", "quip_engine.commands", "quip_engine.cli", "quip_engine.__main__"]),
    (6, ["app"]),
    (4, ["quip_engine"]),
]


def modules() -> list[str]:
    paths = [*ROOT.glob("quip_engine/**/*.py"), *ROOT.glob("app/**/*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def layer_of(name: str) -> int:
    for layer, roots in LAYERS:
        for root in roots:
            exact_only = root == "quip_engine" and layer == 0
            if name == root or (not exact_only and name.startswith(f"{root}.")):
                return layer
    raise AssertionError(f"{name} has no layer")


def imports_of(path: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules())
def test_imports_go_down(path):
    own = layer_of(module_name(path))
    hooked = {"quip_engine/__init__.py": {"quip_engine.hf"}, "quip_engine/runs/worker.py": set()}
    for name in imports_of(path):
        top = name.partition(".")[0]
        if own < 6:
            assert top not in ("gradio", "plotly", "app"), f"{path} imports {name}"
        if top in ("quip_engine", "app") and name not in hooked.get(path, set()):
            assert layer_of(name) <= own, f"{path} (layer {own}) imports {name} (layer {layer_of(name)})"


@pytest.mark.parametrize("path", modules())
def test_no_module_is_too_long(path):
    assert len((ROOT / path).read_text().splitlines()) <= 300


def test_importing_the_engine_is_light():
    code = "import sys, quip_engine; assert not {'torch', 'transformers', 'gradio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", modules())
def test_nothing_runs_code_of_strangers(path):
    """No pickle, no shell, no code from model folders (reliability before convenience)."""
    source = (ROOT / path).read_text()
    for word in ("trust_remote_code=True", "torch.load(", "import pickle", "shell=True", "os.system("):
        assert word not in source.replace("`trust_remote_code=True`", "").replace("``trust_remote_code=True``", "")
