"""What the Inspect tab says about a layer: choices, statistics, sentences below the plots, the table of a race."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app import figures
from app import widgets as w
from app.figures.versus import Racer
from app.fmt import UNKNOWN, duration, fixed, plural, rough, sci, size
from app.library import DEMO
from app.live_plot import dumps
from app.state import RunView, short_names
from app.studio import Studio
from app.views import model_name
from quip_engine.config import RecipeConfig
from quip_engine.errors import fail
from quip_engine.inspection import Inspection, in_words
from quip_engine.methods.registry import presets, presets_by_age
from quip_engine.probe import ModelFacts
from quip_engine.probe.facts import LinearLayer
from quip_engine.race import Finish, pareto_front

OFFERED = (1, 1.5, 2, 2.5, 3, 4, 8)  # bits, where a preset has them
USUAL = "quip#@2"
RUN, MODEL = "run:", "model:"  # what the value of the first field begins with


@dataclass(frozen=True)
class Chosen:
    """A layer of a run or of a model, and the recipe it is quantized with where no run did."""

    source: str
    layer: str  # module path
    recipe: str  # a word of ``recipe_of``


def word_of(config: RecipeConfig) -> str:
    """A preset at a bitrate in one word: ``quip#@2``."""
    return f"{config.method}@{config.bits:g}"


def recipe_of(word: str) -> RecipeConfig:
    """Raises ``BAD_SETTING`` for what is no preset at one of its bitrates."""
    name, _, text = str(word).partition("@")
    preset = presets.get(name)
    bits = next((b for b in preset.bits if f"{b:g}" == text), None)
    if bits is None:
        fail("BAD_SETTING", field="recipe", value=repr(word), allowed="a preset at one of its bitrates")
    return RecipeConfig(name, bits)


def recipe_name(config: RecipeConfig) -> str:
    return f"{config.method}, {config.bits:g} {'bit' if config.bits == 1 else 'bits'}"


def recipe_choices() -> list[tuple[str, str]]:
    """Every preset at the bitrates that are offered, the oldest method first."""
    found = [RecipeConfig(p.name, bits) for p in presets_by_age() for bits in OFFERED if bits in p.bits]
    return [(recipe_name(config), word_of(config)) for config in found]


def sources(studio: Studio) -> list[tuple[str, str]]:
    """Finished runs, newest first, then the models they were made from, the demo, and those that were checked."""
    finished = studio.follower.finished()
    runs = [(f"{run.id.replace('-', ' ')} · {model_name(run)}, {recipe_name(run.job.recipe)}", run) for run in finished]
    models = dict.fromkeys([str(DEMO), *(run.job.model for run in finished), *studio.checked()])
    originals = [(f"{Path(model).name}, original", f"{MODEL}{model}") for model in models]
    return [(label, f"{RUN}{run.id}") for label, run in runs] + originals


def short_layers(facts: ModelFacts) -> dict[str, str]:
    """Short name of each layer's projection by module path."""
    return short_names([layer._asdict() for layer in facts.linear_layers])


def in_block(facts: ModelFacts, block: int) -> list[tuple[str, str]]:
    """(short name, projection) of the layers of a block."""
    short = short_layers(facts)
    return [(short[layer.name], layer.projection) for layer in facts.linear_layers if layer.block == block]


def layer_at(facts: ModelFacts, block: object, projection: object) -> LinearLayer:
    """Raises ``BAD_SETTING`` for a place that the model does not have."""
    for layer in facts.linear_layers:
        if str(layer.block) == str(block) and projection in (layer.projection, layer.name):
            return layer
    fail("BAD_SETTING", field="layer", value=f"{block} · {projection}", allowed=f"a layer of {facts.name}")


def spoken_layer(view: RunView, words: str) -> str:
    """The module path of "block · lane", as the plots of the Monitor say it. Raises ``BAD_SETTING``."""
    for name, lane in view.lanes.items():
        block = next(x["block"] for x in view.started.layers if x["name"] == name) if view.started else None
        if words == f"{block} · {lane}":
            return name
    fail("BAD_SETTING", field="layer", value=repr(words), allowed="a layer of this run")


# -- what is said ------------------------------------------------------------------------------------------------------


def heading(layer: LinearLayer, short: str, what: str) -> w.Html:
    m, n = layer.shape
    return w.heading(f"Block {layer.block} · {short}", f"{n:,} inputs, {m:,} outputs · {what}")


def statistics(seen: Inspection, view: RunView | None, layer: LinearLayer) -> w.Html:
    """The figures of a layer; the loss of a finished run is the one that the run measured."""
    told = view.layers.get(layer.name) if view else None
    loss = told.rel_proxy if told else seen.rel_proxy
    mu, m, n = seen.incoherence, *layer.shape
    return w.stats(
        [
            ("Proxy loss", sci(loss), _rank(view, layer.name) if told else "relative, lower is better"),
            ("Weight error", sci(seen.rel_mse), "|Ŵ − W|² ÷ |W|²"),
            ("μ(W)", _change(mu.w_before, mu.w_after), _promise(mu.w_promised)),
            ("μ(H)", _change(mu.h_before, mu.h_after), _promise(mu.h_promised)),
            ("Bits per weight", fixed(seen.bits_per_weight, 2), "every stored bit"),
            ("Stored", size(seen.bytes), f"was {size(2 * m * n)} in 16 bits"),
        ]
    )


def _rank(view: RunView | None, name: str) -> str:
    losses = {key: layer.rel_proxy for key, layer in view.layers.items()} if view else {}
    worse = sum(loss > losses[name] for loss in losses.values())
    return f"the {_ordinal(worse + 1)}highest of {len(losses)} in the run"


def _ordinal(place: int) -> str:
    if place == 1:
        return ""
    ending = "th" if 10 < place % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending} "


def _change(before: float | None, after: float | None) -> object:
    if before is None or after is None:
        return UNKNOWN
    return w.Html(f'{before:.1f} <span class="muted">→</span> {after:.1f}')


def _promise(most: float | None) -> str:
    return "1 is ideal" if most is None else f"promised: at most {most:.1f}"


def plots(seen: Inspection, layer: str) -> dict[str, str]:
    """Every figure of a layer as the value of its live plot, by name."""
    about_weights, about_loss = in_words(seen)
    drawn = {
        "maps": figures.weight_maps(
            seen.maps, layer, _tiles(seen) if seen.spectrum else f"{_tiles(seen)} {about_loss}"
        ),
        "histogram": figures.histogram(seen.histogram, layer, about_weights),
        "outliers": figures.outlier_rows(seen.outliers, layer, _outliers(seen)),
        "codebook": figures.codebook(seen.picture, seen.histogram, layer, _codebook(seen)),
    }
    values = {name: dumps(figure) for name, figure in drawn.items()}
    values["spectrum"] = dumps(figures.spectrum(seen.spectrum, layer, about_loss)) if seen.spectrum else ""
    return values


def _tiles(seen: Inspection) -> str:
    tall, wide = seen.maps.tile
    worst = int(seen.maps.error.max()) / 255 * seen.maps.top
    cut = "" if max(tall, wide) <= 1 else f" A tile is {tall:.3g} × {wide:.3g} weights."
    return f"The error is in units of the weights' RMS and reaches {worst:.1f}.{cut}"


def _outliers(seen: Inspection) -> str:
    before, after = seen.outliers.beyond
    count = "No weight lies" if before == 0 else "1 weight lies" if before == 1 else f"{before:,} weights lie"
    changed = f", after the transform {after:,}" if seen.transform != "none" else "; nothing is rotated"
    return f"{count} beyond 5 × RMS{changed if before or after else ''}."


def _codebook(seen: Inspection) -> str:
    found = seen.picture.distortion
    excess = f"{found.mse / found.limit:.2f} times the least possible"
    text = f"On a Gaussian, {seen.picture.codebook} errs by {sci(found.mse)} at {found.bits:.2f} bits: {excess}."
    if seen.picture.points:
        used = seen.picture.points
        text = f"{used.used:,} of the {used.size:,} points are in use; larger dots are used more often. {text}"
    if seen.picture.levels:
        return f"The shaded curve is what each level would get if it took the weights next to it. {text}"
    return f"{text} Dotted: that limit; grey: evenly spaced levels."


# -- the race ----------------------------------------------------------------------------------------------------------

RACE_COLUMNS = [("Method", "text"), ("Bits", "num"), ("Proxy loss", "num"), ("× least", "num"), ("Time", "num")]


@dataclass(frozen=True)
class Least:
    """The limit of a layer at some bitrates; empty where H is too wide."""

    curve: tuple[tuple[float, float], ...] = ()

    def times(self, loss: float, bits: float) -> float | None:
        """A loss over the limit at ``bits``, between two places of the curve on a log scale."""
        for (a, low), (b, high) in zip(self.curve, self.curve[1:], strict=False):
            if a <= bits <= b and low > 0 and high > 0:
                return float(loss / (low * (high / low) ** ((bits - a) / (b - a))))
        return None


def race_table(
    asked: Sequence[RecipeConfig], done: Sequence[Finish], running: bool, expected: dict[str, float], least: Least
) -> w.Html:
    """Every recipe of a race in the order it runs: finished, running, waiting, or not possible."""
    rows: list[list[object]] = []
    front = pareto_front(done)
    for place, config in enumerate(asked):
        name = w.tag("b", recipe_name(config)) if place < len(done) and done[place] in front else recipe_name(config)
        if place < len(done):
            rows.append([name, *_finished(done[place], least)])
            continue
        wait = expected.get(word_of(config))
        state = "running" if running and place == len(done) else "waiting" if running else "not run"
        about = f"about {rough(wait)}" if wait is not None else UNKNOWN
        rows.append([name, w.tag("span", state, "muted"), UNKNOWN, UNKNOWN, about, ""])
    return w.table([*RACE_COLUMNS, ("", "act")], rows, "Methods on this layer, in the order they ran", "stack")


def _finished(finish: Finish, least: Least) -> list[object]:
    if finish.rel_proxy is None or finish.bits_per_weight is None:
        return [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, w.tag("span", finish.reason, "muted reason")]
    times = least.times(finish.rel_proxy, finish.bits_per_weight)
    use = w.button("Use this recipe", word_of(finish.recipe))
    return [
        fixed(finish.bits_per_weight, 2),
        sci(finish.rel_proxy),
        UNKNOWN if times is None else f"{times:.2f}",
        duration(finish.seconds),
        use,
    ]


def race_plot(done: Sequence[Finish], least: Least, layer: str, foot: str) -> str:
    racers = {id(f): _racer(f) for f in done if f.rel_proxy is not None}
    front = [racers[id(f)] for f in pareto_front(done)]
    return dumps(figures.race(list(racers.values()), front, least.curve, layer, foot))


def _racer(finish: Finish) -> Racer:
    assert finish.bits_per_weight is not None and finish.rel_proxy is not None
    return Racer(finish.recipe.method, finish.bits_per_weight, finish.rel_proxy, finish.seconds or 0.0)


def race_words(done: Sequence[Finish], least: Least, rows: int, m: int) -> str:
    """Who won, in a sentence, and what took part."""
    known = [f for f in done if f.rel_proxy is not None and f.bits_per_weight is not None]
    if not known:
        return ""
    best = min(known, key=lambda f: f.rel_proxy or 0.0)
    text = f"Least loss: {recipe_name(best.recipe)}, {sci(best.rel_proxy)} in {duration(best.seconds)}."
    front = pareto_front(known)
    if len(front) > 1:
        text += f" {plural(len(front), 'method')} on the front: none of the others is better in both bits and loss."
    if rows < m:
        text += f" {rows:,} of {m:,} rows took part."
    return text
