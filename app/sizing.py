"""What a model may take and how it is tuned, as plain values of fields: fields <-> ``BudgetConfig``, ``TuningConfig``.

A size can be asked in three ways (``SIZED``), of which one holds; the fields of the others keep what was typed.
"""

from __future__ import annotations

from typing import Any

from quip_engine.commands.budget_args import budget_values, layer_bits
from quip_engine.commands.tuning_args import NUMBERS, tuning_values
from quip_engine.config import STAGES, UNITS, BudgetConfig, JobConfig, TuningConfig, read_bytes
from quip_engine.errors import QuipError, fail

BITS, SIZE, FITS = "bits", "size", "fits"
SIZED = {"Bits per weight": BITS, "Size of the files": SIZE, "Memory it fits into": FITS}
RULES = {
    "As the method does": "usual",
    "By what errors cost": "sensitivity",
    "2 or 4 bits by trace": "trace",
    "All layers alike": "uniform",
    "By hand alone": "manual",
}
SIGNS = {"If cheap": "auto", "Never": "never", "Always": "always"}
STAGE_FIELDS = {stage: f"tune {stage}" for stage in STAGES}
NUMBER_FIELDS = {f"tune {name}": name for name in NUMBERS}
CHECKED = (SIZE, FITS, "context", "layers", *NUMBER_FIELDS)


def budget_config(fields: dict[str, Any]) -> BudgetConfig:
    """What the fields say of the size and how it is shared out. Raises ``BAD_SETTING``."""
    asked = {name: read_bytes(_named(name), fields[name] or "") for name in (SIZE, FITS) if fields["sized"] == name}
    return BudgetConfig(
        **asked,
        context=_number("context", fields["context"]) if FITS in asked else BudgetConfig.context,
        rule=fields["rule"],
        layers=by_hand(fields["layers"]),
        embeddings=fields["embeddings"],
    )


def tuning_config(fields: dict[str, Any]) -> TuningConfig:
    """What the fields say of tuning; without a stage all else is as usual. Raises ``BAD_SETTING``."""
    stages = tuple(stage for stage, name in STAGE_FIELDS.items() if fields[name])
    if not stages:
        return TuningConfig()
    numbers = {name: _number(field, fields[field]) for field, name in NUMBER_FIELDS.items()}
    return TuningConfig(stages, **numbers, head=fields["tune head"], relax_signs=fields["tune signs"])


def values(job: JobConfig) -> dict[str, Any]:
    """What the fields show of a job."""
    budget, tuning = job.budget, job.tuning
    return {
        "sized": SIZE if budget.size else FITS if budget.fits else BITS,
        SIZE: written(budget.size) if budget.size else "",
        FITS: written(budget.fits) if budget.fits else "",
        "context": budget.context,
        "embeddings": budget.embeddings,
        "rule": budget.rule,
        "layers": lines(budget.layers),
        **{name: stage in tuning.stages for stage, name in STAGE_FIELDS.items()},
        **{field: getattr(tuning, name) for field, name in NUMBER_FIELDS.items()},
        "tune head": tuning.head,
        "tune signs": tuning.relax_signs,
    }


def by_hand(text: str | None) -> dict[str, float]:
    """Bits by name or pattern, from a line for each. Raises ``BAD_SETTING``."""
    return layer_bits([line for line in (text or "").splitlines() if line.strip()])


def lines(layers: dict[str, float]) -> str:
    return "\n".join(f"{name}={bits:g}" for name, bits in layers.items())


def written(size: int) -> str:
    """Bytes as somebody would type them, exactly: ``1.9 MB``."""
    for unit in ("GB", "MB", "KB"):
        text = f"{size / UNITS[unit]:.12g} {unit}"
        if size >= UNITS[unit] and read_bytes("size", text) == size:
            return text
    return f"{size} B"


def error(name: str, fields: dict[str, Any]) -> str:
    """What a field allows when it has something else; empty when it is fine, or plays no part."""
    try:
        if name in NUMBER_FIELDS:
            TuningConfig(**{NUMBER_FIELDS[name]: _number(name, fields[name])})
        elif name == "layers":
            BudgetConfig(layers=by_hand(fields[name]))
        elif name == "context":
            BudgetConfig(context=_number(name, fields[name]))
        elif fields["sized"] == name:
            read_bytes(name, fields[name] or "")
    except QuipError as problem:
        return problem.hint
    return ""


def asked(job: JobConfig) -> str:
    """The size that a job asks for, in words: ``2 bits``, ``1.9 MB``."""
    if job.budget.size:
        return written(job.budget.size)
    if job.budget.fits:
        return f"what fits {written(job.budget.fits)}"
    bits = job.recipe.bits
    return f"{bits:g} {'bit' if bits == 1 else 'bits'}"


def settings(job: JobConfig) -> dict[str, str]:
    """What a job asks of size and tuning, by the name a person would use; what is usual is left out."""
    budget, tuning = job.budget, job.tuning
    found = {"Asked": asked(job)}
    if budget.embeddings:
        found["Embeddings"] = f"{budget.embeddings} bits"
    if budget.rule != BudgetConfig.rule:
        found["Bits of layers"] = next(name for name, rule in RULES.items() if rule == budget.rule)
    if budget.layers:
        found["Bits by hand"] = ", ".join(lines(budget.layers).splitlines())
    if tuning.stages:
        found["Tuning"] = f"{', '.join(tuning.stages)}; {tuning.steps or 'usual'} steps, {tuning.samples} samples"
    return found


def words(job: JobConfig) -> list[str]:
    """The words of the command line that ask for the same. Defaults are left out."""
    usual = budget_values(BudgetConfig()) | tuning_values(TuningConfig())
    found: list[str] = []
    for name, value in (budget_values(job.budget) | tuning_values(job.tuning)).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value != usual[name]:
            found += [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]
    return found


def whole(value: Any) -> Any:
    """Number fields give floats: 128.0 is 128, and 2.5 stays what it is, to be refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _named(name: str) -> str:
    return {SIZE: "size of the files", FITS: "memory"}[name]


def _number(name: str, value: Any) -> Any:
    if value is None:
        fail("BAD_SETTING", field=name, value="nothing", allowed="a number")
    return whole(value)
