"""What the Inspect tab answers: which layers there are, one of them looked at, a race of methods on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app import layer_views as says
from app import widgets as w
from app.drafts import Draft
from app.layer_views import MODEL, RUN, Chosen, Least
from app.library import DEMO
from app.page import ask, go
from app.state import RunView, explain
from app.stops import Stops
from app.studio import Studio
from app.views import checkpoint
from quip_engine.config import JobConfig, RecipeConfig
from quip_engine.errors import Stopped, fail
from quip_engine.inspection import Inspection, inspection, read_layer
from quip_engine.layer import LayerFormat, quantize_weight
from quip_engine.methods.registry import alone, resolve
from quip_engine.probe import ModelFacts
from quip_engine.probe.facts import LinearLayer
from quip_engine.problem import LayerProblem, layer_problem, stream_problem
from quip_engine.race import SMALL, Finish, expected_seconds, limit, plain, race, some_rows, usual_presets

BITS = [round(0.9 + 0.1 * k, 1) for k in range(78)]  # where the limit is drawn
Update = dict[Any, Any]  # new values by component


class Desk:
    """One look or race at a time for each page; another page has its own."""

    def __init__(self, studio: Studio, parts: dict[str, Any], shown: Any) -> None:
        """``parts``: the components of the tab by name; ``shown``: where the layer that is seen is remembered."""
        self.studio, self.parts, self.shown = studio, parts, shown
        self.stops = Stops()

    @property
    def outputs(self) -> list[Any]:
        picker = ("source", "block", "projection", "recipe")
        return [self.shown, *(part for name, part in self.parts.items() if name not in picker)]

    # -- which layer ---------------------------------------------------------------------------------------------------

    def first(self, model: str) -> list[Any]:
        """The picker on a fresh page: the newest finished run, else the chosen model."""
        finished = self.studio.follower.finished()
        source = f"{RUN}{finished[0].id}" if finished else f"{MODEL}{model or DEMO}"
        return [gr.update(choices=says.sources(self.studio), value=source), *self.refill(source)]

    def refill(self, source: str) -> list[Any]:
        """Blocks, projections and recipe of another run or model: at its layer of highest loss, if that is known."""
        try:
            facts, view = self._facts(source), self._view(source)
        except Exception:  # a look says what is wrong
            return [gr.update(choices=[], value=None)] * 2 + [gr.skip()]
        worst = max(view.layers.values(), key=lambda x: x.rel_proxy).name if view and view.layers else ""
        layer = next((x for x in facts.linear_layers if x.name == worst), facts.linear_layers[0])
        return [*self._places(facts, layer), gr.update(visible=view is None)]

    def reblock(self, source: str, block: Any) -> Any:
        """The projections of another block."""
        try:
            choices = says.in_block(self._facts(source), int(block))
        except Exception:
            return gr.skip()
        return gr.update(choices=choices)

    def _places(self, facts: ModelFacts, layer: LinearLayer) -> list[Any]:
        blocks = [(str(b), str(b)) for b in range(facts.blocks)]
        projections = says.in_block(facts, layer.block)
        return [
            gr.update(choices=blocks, value=str(layer.block)),
            gr.update(choices=projections, value=layer.projection),
        ]

    def _facts(self, source: str) -> ModelFacts:
        return self.studio.facts(self._model(source))

    def _model(self, source: str) -> str:
        """The original, as ``probe`` is asked for it."""
        view = self._view(source)
        return view.run.job.model if view else str(source or "").removeprefix(MODEL)

    def _view(self, source: str) -> RunView | None:
        """What a run said; None for a model."""
        if not str(source or "").startswith(RUN):
            return None
        run = self.studio.follower.find(source.removeprefix(RUN))
        if not checkpoint(run).is_dir():
            fail("MODEL_GONE", name=run.name)
        return self.studio.follower.chosen(run.id)[0]

    # -- a look at it --------------------------------------------------------------------------------------------------

    def look(self, request: gr.Request, source: str, block: Any, projection: Any, recipe: str) -> Iterator[Update]:
        """Stream the model up to the layer, quantize it or read it from the run, and show it."""
        p = self.parts
        with self.stops.begun(request) as stop:
            try:
                yield {**self._working("Checking the model…"), p["trouble"]: gr.update(visible=False)}
                facts, view = self._facts(source), self._view(source)
                layer = says.layer_at(facts, block, projection)
                steps = stream_problem(
                    facts, layer, home=self.studio.home, offline=self.studio.offline, stop=stop.is_set
                )
                problem = yield from self._streamed(steps)
                yield self._working("Reading the stored layer…" if view else "Quantizing the layer…", 1.0)
                format, tensors, damping = self._stored(view, layer, problem, recipe)
                yield self._working("Looking at it…", 1.0)
                seen = inspection(problem.W, problem.H, format, tensors, damping)
                chosen = Chosen(source, layer.name, recipe)
                yield {**self._shown(facts, view, layer, seen, chosen), **self._idle()}
            except Stopped:
                yield self._idle()
            except Exception as error:
                yield {**self._idle(), p["trouble"]: gr.update(value=w.problem(explain(error)), visible=True)}

    def open(self, request: gr.Request, asked: tuple[str, str, int] | None) -> Iterator[Update]:
        """The layer of a run that a plot of the Monitor names. An unfinished run is quantized anew."""
        p = self.parts
        if asked is None:  # nothing was pressed yet
            yield {p["trouble"]: gr.skip()}  # a generator that gives nothing would empty all its outputs
            return
        run_id, words, _ = asked
        try:
            view, _ = self.studio.follower.chosen(run_id)
            if view is None:
                fail("RUN_NOT_FOUND", name=run_id)
            run, recipe = view.run, view.run.job.recipe
            facts, name = self.studio.facts(run.job.model), says.spoken_layer(view, words)
            layer = next(x for x in facts.linear_layers if x.name == name)
            done = run.status == "done" and checkpoint(run).is_dir()
            source = f"{RUN}{run.id}" if done else f"{MODEL}{run.job.model}"
            word = says.word_of(RecipeConfig(recipe.method, recipe.bits))
            word = word if word in {value for _, value in says.recipe_choices()} else says.USUAL
            blocks, projections = self._places(facts, layer)
        except Exception as error:
            yield {p["trouble"]: gr.update(value=w.problem(explain(error)), visible=True)}
            return
        yield {
            p["source"]: gr.update(choices=says.sources(self.studio), value=source),
            **{p["block"]: blocks, p["projection"]: projections},
            p["recipe"]: gr.update(value=word, visible=not done),
        }
        yield from self.look(request, source, layer.block, layer.projection, word)

    def _streamed(self, steps: Any) -> Any:
        """Progress of a problem's blocks; returns the problem."""
        while True:
            try:
                passed, blocks = next(steps)
            except StopIteration as end:
                return end.value
            words = (
                f"Reading the calibration text, block {passed} of {blocks}"
                if blocks
                else "Reading the calibration text"
            )
            yield self._working(words, passed / blocks if blocks else 1.0)

    def _stored(
        self, view: RunView | None, layer: LinearLayer, problem: LayerProblem, recipe: str
    ) -> tuple[LayerFormat, dict[str, Any], float | None]:
        """How the layer is stored, its tensors, and the damping of its rounding."""
        if view is not None:
            format, tensors = read_layer(checkpoint(view.run), layer.name)
            damping = view.started.recipe["rounding"].get("damping") if view.started else None
            return format, tensors, damping
        made = resolve(alone(plain(says.recipe_of(recipe))))
        result = quantize_weight(problem.W, problem.H, made, name=layer.name)
        return result.format, result.tensors, getattr(made.rounding, "damping", None)

    def _shown(
        self, facts: ModelFacts, view: RunView | None, layer: LinearLayer, seen: Inspection, chosen: Chosen
    ) -> Update:
        p, short = self.parts, says.short_layers(facts)[layer.name]
        what = f"{view.run.id.replace('-', ' ')} of {facts.name}" if view else f"{facts.name}, quantized just now"
        usual = usual_presets(*layer.shape)
        return {
            p["figures"]: gr.update(visible=True),
            p["nothing"]: gr.update(visible=False),
            p["body"]: gr.update(visible=True),
            p["head"]: says.heading(layer, short, f"{what} · {seen.transform} × {seen.picture.codebook}"),
            p["numbers"]: says.statistics(seen, view, layer),
            self.shown: chosen,
            p["racers"]: [says.word_of(config) for config in usual],
            p["results"]: gr.update(visible=False),
            **{p[name]: value for name, value in says.plots(seen, layer.name).items()},
        }

    # -- the race ------------------------------------------------------------------------------------------------------

    def race(self, request: gr.Request, chosen: Chosen | None, words: list[str]) -> Iterator[Update]:
        """Every chosen method on the layer that is shown, one after the other."""
        p = self.parts
        with self.stops.begun(request) as stop:
            try:
                if chosen is None or not words:
                    fail("BAD_SETTING", field="methods", value="none", allowed="one or more")
                yield {p["run"]: gr.update(interactive=False), p["halt"]: gr.update(interactive=True)}
                recipes = [says.recipe_of(word) for word in words]
                facts = self._facts(chosen.source)
                layer = next(x for x in facts.linear_layers if x.name == chosen.layer)
                problem = layer_problem(facts, layer, home=self.studio.home, offline=self.studio.offline)
                yield {p["race-trouble"]: gr.update(visible=False), p["results"]: gr.update(visible=True)}
                yield from self._run(problem, recipes, stop)
            except Exception as error:
                yield {p["race-trouble"]: gr.update(value=w.problem(explain(error)), visible=True)}
            yield {p["run"]: gr.update(interactive=True), p["halt"]: gr.update(interactive=False)}

    def _run(self, problem: LayerProblem, recipes: list[RecipeConfig], stop: threading.Event) -> Iterator[Update]:
        p, done = self.parts, list[Finish]()
        W = some_rows(problem.W)
        values = limit(W, problem.H, BITS)
        least = Least(tuple(zip(BITS, values, strict=True)) if values else ())
        expected = {} if W.numel() <= SMALL else {says.word_of(r): expected_seconds(r, *W.shape) for r in recipes}

        def state(running: bool) -> Update:
            foot = says.race_words(done, least, len(W), len(problem.W))
            return {
                p["race"]: says.race_plot(done, least, problem.layer.name, foot),
                p["table"]: says.race_table(recipes, done, running, expected, least),
            }

        yield state(True)
        for finish in race(W, problem.H, recipes, stop=stop.is_set):
            done.append(finish)
            yield state(len(done) < len(recipes))
        yield state(False)

    def use(self, chosen: Chosen | None, event: gr.EventData) -> tuple[Any, Any]:
        """The Quantize form with a recipe of the race; everything else stays as it is there."""
        recipe = says.recipe_of(str(event._data["action"]))
        model = self._model(chosen.source) if chosen else str(DEMO)
        draft = Draft(self.studio.home).load() or JobConfig(model, "")
        return ask(replace(draft, model=model, recipe=recipe)), go("Quantize")

    # -- working -------------------------------------------------------------------------------------------------------

    def stop(self, request: gr.Request) -> None:
        self.stops.stop(request)

    def _working(self, words: str, share: float = 0.0) -> Update:
        p = self.parts
        bar = w.joined([w.note(words), w.progress(share, "Progress of the inspection")])
        return {
            p["progress"]: gr.update(value=bar, visible=True),
            p["stop"]: gr.update(visible=True),
            p["look"]: gr.update(interactive=False),
        }

    def _idle(self) -> Update:
        p = self.parts
        return {
            p["progress"]: gr.update(visible=False),
            p["stop"]: gr.update(visible=False),
            p["look"]: gr.update(interactive=True),
        }
