"""``layer``: quantize one layer, given as W and H, and report what it cost."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quip_engine.commands.recipe_args import add_recipe_arguments, recipe_config
from quip_engine.config import check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from torch import Tensor

    from quip_engine.layer import LayerReport, QuantizedWeight


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("layer", help="quantize one layer from a file with W and H")
    parser.add_argument("file", type=Path, metavar="FILE", help="safetensors file with W (m x n) and H (n x n)")
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the packed tensors and W_hat, safetensors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict[str, Any]:
    config = recipe_config(options)
    check_number("seed", options.seed, 0, 2**31 - 1, whole=True)
    if not options.file.exists():
        fail("BAD_PROBLEM", path=options.file, reason="there is no such file")
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import
    from quip_engine.layer import quantize_weight  # noqa: PLC0415
    from quip_engine.linalg.bound import relative_proxy_bound  # noqa: PLC0415
    from quip_engine.methods.registry import alone, resolve  # noqa: PLC0415

    recipe = resolve(alone(config))
    use_threads(options.threads)
    W, H = read_problem(options.file)
    found = _eigenvalues(H, options.file.name)
    result = quantize_weight(W, H, recipe, seed=options.seed, name=options.file.name)
    if options.save is not None:
        _save(options.save, result)
    trial = f", by trial with {result.format.transform.described()}" if recipe.rivals else ""
    print(f"{options.file.name}, {W.shape[0]} x {W.shape[1]}: {recipe}{trial}", file=sys.stderr)
    bound = None if found is None else relative_proxy_bound(W, H, found, result.report.bits_per_weight)
    _print(result.report, bound)
    facts = {"method": config.method, "bits": config.bits, "shape": list(W.shape)}
    return {**facts, **asdict(result.report), "rel_proxy_bound": bound}


def read_problem(path: Path) -> tuple[Tensor, Tensor]:
    """W: (m, n) and H: (n, n) of a problem file."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted({"W", "H"} - set(file.keys()))
            if missing:
                fail("BAD_PROBLEM", path=path, reason=f"it holds no {' and no '.join(missing)}")
            W, H = file.get_tensor("W"), file.get_tensor("H")
    except (SafetensorError, OSError) as error:
        fail("BAD_PROBLEM", path=path, reason=f"it cannot be read as safetensors: {error}")
    for name, tensor in (("W", W), ("H", H)):
        if tensor.dim() != 2 or not tensor.is_floating_point() or tensor.numel() == 0:
            found = f"{tensor.dtype} of shape {list(tensor.shape)}".removeprefix("torch.")
            fail("BAD_PROBLEM", path=path, reason=f"{name} is {found}, not a matrix of real numbers")
    if H.shape != (W.shape[1], W.shape[1]):
        fail("BAD_PROBLEM", path=path, reason=f"W is {list(W.shape)}, H is {list(H.shape)}")
    return W, H


def _eigenvalues(H: Tensor, name: str) -> Tensor | None:
    """Those of H, of which the least possible loss follows; None where H is too wide to find them."""
    from quip_engine.linalg.bound import eigenvalues  # noqa: PLC0415
    from quip_engine.linalg.hessian import check_hessian  # noqa: PLC0415

    return eigenvalues(check_hessian(H, len(H), name)[0])


def _save(path: Path, result: QuantizedWeight) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    from quip_engine.files import replacing  # noqa: PLC0415

    tensors = {f"packed.{name}": tensor for name, tensor in result.tensors.items()}
    tensors["W_hat"] = result.dequantize()
    if not path.parent.is_dir():
        fail("OUTPUT_NOT_WRITABLE", path=path, reason="there is no such folder")
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _print(report: LayerReport, bound: float | None) -> None:
    rows = {
        "bits per weight": f"{report.bits_per_weight:.4f}",
        "relative proxy loss": f"{report.rel_proxy:.3e}{_against(report.rel_proxy, bound)}",
        "relative squared error": f"{report.rel_mse:.3e}",
        "mu of W": _before_after(report.mu_w_before, report.mu_w_after),
        "mu of H": _before_after(report.mu_h_before, report.mu_h_after),
        "seconds": f"{report.seconds:.2f}",
    }
    for name, value in rows.items():
        print(f"{name:<24}{value}", file=sys.stderr)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)


def _against(loss: float, bound: float | None) -> str:
    if bound is None:
        return " (the least possible is not known: H is too wide)"
    return f", {loss / bound:.2f} times the least possible at these bits" if bound else ""


def _before_after(before: float | None, after: float | None) -> str:
    return "not measured" if before is None or after is None else f"{before:.2f} -> {after:.2f}"
