"""``bench methods``: the table method x bits x problem on single layers, or with ``--end-to-end`` on whole models."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quip_engine.commands.evaluate import BUNDLED
from quip_engine.commands.layer import read_problem
from quip_engine.commands.recipe_args import named_recipe, whole_if_whole
from quip_engine.commands.text import MarkdownTable, figure
from quip_engine.commands.tuning_args import add_tuning_numbers
from quip_engine.config import DEVICES, RecipeConfig, TuningConfig, check_number
from quip_engine.errors import fail

if TYPE_CHECKING:
    from quip_engine.commands.bench.problems import Problem

SEEDS = 3  # of each layer; a model has many layers, and one will do
COLUMNS = (
    *("method", "bits", "bits per weight", "proxy loss", "times the least", "squared error"),
    *("seconds", "us per weight"),
)


class Named(NamedTuple):
    """A method as it was written, and what it means."""

    word: str
    recipe: RecipeConfig
    stages: tuple[str, ...]  # of tuning

    @classmethod
    def read(cls, word: str, bits: float) -> Named:
        """Raises ``BAD_SETTING`` for a stage that does not exist."""
        method, *stages = word.split("+")
        return cls(word, named_recipe(method, bits), TuningConfig(tuple(stages)).stages)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("methods", help="loss, bits and seconds of every method")
    text = "what to compare: NAME or NAME:KEY=VALUE,... with options or replaced parts (default: every preset); "
    text += "with --end-to-end also +STAGE+... with stages of tuning"
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=text)
    parser.add_argument("--bits", nargs="+", type=float, default=[2], help="bits per weight (default: 2)")
    text = f"runs to average, from seed 0 on (default: {SEEDS}, with --end-to-end 1)"
    parser.add_argument("--seeds", type=int, metavar="N", help=text)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    layers = parser.add_argument_group("single layers")
    text = "files with W and H (default: problems made up from seeds)"
    layers.add_argument("--problems", nargs="+", type=Path, metavar="FILE", help=text)
    models = parser.add_argument_group("whole models")
    models.add_argument("--end-to-end", action="store_true", help="quantize models and compare what they predict")
    models.add_argument("--models", nargs="+", metavar="DIR", help="model folders (default: the bundled demo model)")
    models.add_argument("--outliers", action="store_true", help="add a random model with strong outlier channels")
    models.add_argument("--text", type=Path, metavar="FILE", help="text to evaluate on (default: the bundled)")
    models.add_argument("--max-windows", type=int, metavar="N", help="evaluate on the first N windows only")
    models.add_argument("--calibration", metavar="NAME|FILE", help="calibration text (default: as quantize)")
    models.add_argument("--samples", type=int, metavar="N", help="calibration windows (default: as quantize)")
    add_tuning_numbers(models)
    models.add_argument("--device", choices=DEVICES, default="cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.seeds is not None:
        check_number("seeds", options.seeds, 1, 1000, whole=True)
    _check_flags(options)
    methods = chosen_methods(options.methods, options.bits)
    from quip_engine.devices import use_threads  # noqa: PLC0415 - torch takes seconds to import

    use_threads(options.threads)
    if not options.end_to_end and (tuned := next((one.word for one in methods if one.stages), None)):
        fail("BAD_SETTING", field="methods", value=tuned, allowed="tuning only with --end-to-end")
    if options.end_to_end:
        from quip_engine.commands.bench.models import compare_models  # noqa: PLC0415

        return compare_models(options, methods)
    return compare_layers(_problems(options.problems), methods, options.seeds or SEEDS)


def _check_flags(options: argparse.Namespace) -> None:
    """A flag of the other kind of measurement would change nothing: refuse it."""
    of_models = ("models", "outliers", "text", "max_windows", "calibration", "samples")
    for name in ("problems",) if options.end_to_end else of_models:
        if getattr(options, name):
            allowed = "only without --end-to-end" if options.end_to_end else "only with --end-to-end"
            fail("BAD_SETTING", field=f"--{name.replace('_', '-')}", value="given", allowed=allowed)
    for path in options.problems or ():
        if not path.exists():
            fail("BAD_PROBLEM", path=path, reason="there is no such file")
    if options.text is None:
        options.text = BUNDLED
    elif not options.text.exists():
        fail("NOT_FOUND", path=options.text)


def chosen_methods(words: Sequence[str] | None, bitrates: Sequence[float]) -> list[Named]:
    """Methods at each bitrate they have; which have not is said. Raises the coded errors where nothing is left."""
    from quip_engine.methods.registry import presets, presets_by_age, resolve  # noqa: PLC0415

    words = words or [preset.name for preset in presets_by_age()]
    found = []
    for bits in map(whole_if_whole, bitrates):
        named = [Named.read(word, bits) for word in words]
        lacking = [
            one.word for one in named if not one.recipe.codebook and bits not in presets.get(one.recipe.method).bits
        ]
        if len(lacking) == len(words):
            resolve(named[0].recipe)  # says what it has
        if lacking:
            print(f"not at {bits:g} bits: {', '.join(lacking)}", file=sys.stderr)
        found += [one for one in named if one.word not in lacking]
    for one in found:
        resolve(one.recipe)
    return found


def _problems(files: Sequence[Path] | None) -> list[Problem]:
    from quip_engine.commands.bench.problems import Problem, made_up_problems  # noqa: PLC0415

    if files is None:
        return list(made_up_problems())
    return [Problem(file.stem, *read_problem(file)) for file in files]


def compare_layers(problems: Sequence[Problem], methods: Sequence[Named], seeds: int) -> list[dict[str, Any]]:
    """One row for each method on each problem, printed as they come; then their losses side by side."""
    rows: list[dict[str, Any]] = []
    for problem in problems:
        m, n = problem.W.shape
        print(f"\n{problem.name}, {m} x {n}, {averaged(seeds)}\n", file=sys.stderr)
        table = MarkdownTable(*COLUMNS)
        for word, recipe, _ in methods:
            row = _row(problem, word, recipe, seeds)
            rows.append(row)
            table.add(f"`{word}`", *_cells(row, m * n))
    if len(problems) > 1:
        _side_by_side(rows, [problem.name for problem in problems], methods)
    return rows


def _row(problem: Problem, word: str, config: RecipeConfig, seeds: int) -> dict[str, Any]:
    """Means over the seeds; the median of the seconds."""
    from quip_engine.layer import quantize_weight  # noqa: PLC0415
    from quip_engine.methods.registry import alone, resolve  # noqa: PLC0415

    recipe = resolve(alone(config))
    quantize_weight(problem.W[:64], problem.H, recipe, eigenvectors=None)  # tables and kernels are made once, not timed
    reports = [
        quantize_weight(problem.W, problem.H, recipe, seed=seed, name=problem.name, eigenvectors=None).report
        for seed in range(seeds)
    ]
    bits = statistics.fmean(report.bits_per_weight for report in reports)
    losses = [report.rel_proxy for report in reports]
    bound = problem.bound(bits)
    return {
        "name": word,
        "problem": problem.name,
        "bits": config.bits,
        "seeds": seeds,
        "bits_per_weight": bits,
        "rel_proxy": statistics.fmean(losses),
        "rel_proxy_deviation": statistics.stdev(losses) if seeds > 1 else None,
        "rel_mse": statistics.fmean(report.rel_mse for report in reports),
        "seconds": statistics.median(report.seconds for report in reports),
        "rel_proxy_bound": bound,
        "ratio": statistics.fmean(losses) / bound if bound else None,
        "notes": sorted({note for report in reports for note in report.notes}),
    }


def _cells(row: dict[str, Any], weights: int) -> list[str]:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    losses = figure(row["rel_proxy"]), ratio, figure(row["rel_mse"])
    times = figure(row["seconds"]), figure(1e6 * row["seconds"] / weights)
    return [f"{row['bits']:g}", f"{row['bits_per_weight']:.4f}", *losses, *times]


def averaged(seeds: int) -> str:
    return "seed 0" if seeds == 1 else f"mean of seeds 0 to {seeds - 1}"


def _side_by_side(rows: Iterable[dict[str, Any]], problems: Sequence[str], methods: Sequence[Named]) -> None:
    """The losses again, a column for each problem."""
    found = {(row["name"], row["bits"], row["problem"]): figure(row["rel_proxy"]) for row in rows}
    print("\nproxy loss\n", file=sys.stderr)
    table = MarkdownTable("method", "bits", *problems)
    for word, recipe, _ in methods:
        table.add(f"`{word}`", f"{recipe.bits:g}", *(found[word, recipe.bits, problem] for problem in problems))
