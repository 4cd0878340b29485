# %% [markdown]
# # Many to one: a digit, pixel by pixel
#
# The image of a digit is read as a sequence of 64 numbers, row by row, and only the last state says which digit it was.
# What tanh, ReLU, GRU and LSTM make of it, at equal numbers of parameters; and, of the same networks, how often they
# would be right if they had to say it after each pixel: when do they know?
#
# Le, Jaitly, Hinton. A simple way to initialize recurrent networks of rectified linear units. 2015 (on larger images).

# %%
import dataclasses
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _digits import CLASSES, Parts, draw_batches, load_digits, majority
from _showing import Scores, Shown, conduct, draw_curves, shown
from _study import Study, optimizer, read_options, require_room
from _training import Networks, Task, classify, needs_of, open_study
from rnn_jax.lab.plots import ScoreCurve, score_figure
from rnn_jax.lab.report import Section

from rnn_jax import Cell, gru, irnn, lstm, many_to_many, many_to_one, readout, vanilla
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.lab.runs import Run, wrong_use
from rnn_jax.training import batch_learner

CELLS = {"tanh": vanilla, "relu": irnn, "gru": gru, "lstm": lstm}
"""``relu`` begins with the identity as W_hh."""


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """Which digit is it, read as a sequence of 64 pixels? tanh, ReLU, GRU and LSTM at equal numbers of parameters."""

    cells: tuple[str, ...] = tuple(CELLS)
    """Of tanh, relu, gru, lstm."""
    hidden_size: int = 64
    """Units of the LSTM that sets the number of parameters; every cell gets as many units as give the same number."""
    updates: int = 120
    """Optimizer steps from one look to the next."""
    out: Path = Path("runs/digit_pixels/default")
    """The run folder."""


SMOKE = {"cells": ("gru",), "hidden_size": 12, "seeds": 1, "looks": 2, "updates": 10}


# %% [markdown]
# ## The networks


# %%
def make_models(config: Config) -> dict[str, Cell]:
    """A network for each cell, with the parameters of an LSTM of ``hidden_size`` units, or nearly.

    Raises:
        ValueError: for an unknown cell, or none.
    """
    unknown = [name for name in config.cells if name not in CELLS]
    if unknown or not config.cells:
        raise ValueError(
            f"--cells got {unknown[0] if unknown else 'nothing'!r}; want one or more of {', '.join(CELLS)}"
        )
    twice = next((name for name in config.cells if config.cells.count(name) > 1), None)
    if twice:
        raise ValueError(f"--cells got {twice} twice; want each cell once")

    def make(name: str, hidden_size: int) -> Cell:
        return readout(CELLS[name](1, hidden_size), CLASSES)

    require_room(config, hidden_size=16 * parameter_count(make("lstm", config.hidden_size)))
    budget = parameter_count(make("lstm", config.hidden_size))
    return {name: make(name, matching_size(partial(make, name), budget)) for name in config.cells}


def as_sequence(images: Any) -> Any:
    """``(N, 8, 8) -> (64, N, 1)``: a pixel at each step."""
    return images.reshape(-1, 64).T[..., None]


def make_task(config: Config, model: Cell, parts: Parts) -> Task:
    """What is learned from what."""

    def score(params: Any, images: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
        xs = as_sequence(images)
        return classify(many_to_one(model, params, model.start(params, classes.shape), xs), classes)

    return Task(
        learner=batch_learner(
            model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer(config), clip=config.clip
        ),
        batches=lambda rng, look: draw_batches(parts.train, rng, config.updates, config.batch_size),
        score=score,
        validation=parts.validation,
        test=parts.test,
        facts={
            "hidden_size": jax.eval_shape(model.init, jax.random.key(0)).W_hy.shape[0],
            "parameters": parameter_count(model),
        },
        needs=needs_of(config, model, steps=64, outputs=CLASSES, numbers=64, scored=64 * len(parts.test.classes)),
    )


# %% [markdown]
# ## When do they know?


# %%
def right_after_each_pixel(model: Cell, params: Any, images: Any, classes: Any) -> jax.Array:
    """``(64,)``: how often the outputs after each pixel, which no training has asked for, name the right digit."""
    ys = many_to_many(model, params, model.start(params, classes.shape), as_sequence(images))
    return (ys.argmax(axis=-1) == classes).mean(axis=1)


def show(models: dict[str, Cell], parts: Parts, run: Run, networks: Networks, chance: dict, scores: Scores) -> Shown:
    """Draws what the networks know after each pixel."""
    curves = {}
    for name in scores:
        measure = jax.jit(partial(right_after_each_pixel, models[name]))
        found = np.array([measure(params, *parts.test) for params in networks[name].values()])
        curves[name] = ScoreCurve(np.arange(1, 65), found.T)
    figure = score_figure(curves, chance, "test digits named right", "pixels read, eight a row")
    rows = [(name, k, f"{right:.4f}") for name, c in curves.items() for k, right in enumerate(c.values.mean(1), 1)]
    run.draw("after_each_pixel", figure, ("cell", "pixels", "accuracy"), rows)
    sections = [
        draw_curves(run, scores, "accuracy", chance, "digits read right"),
        Section("When do they know?", "after_each_pixel", about_pixels(curves)),
    ]
    told = ", ".join(f"{name} {shown(of['accuracy'])}" for name, of in scores.items())
    return Shown(f"After 64 pixels the network names the digit: {told}.", sections)


def about_pixels(curves: Mapping[str, ScoreCurve]) -> str:
    """The sentence under the scores after each pixel."""
    known = {name: np.flatnonzero(curve.values.mean(1) > 0.5) for name, curve in curves.items()}
    return (
        "The same networks, asked after every pixel though they were trained to answer after the last. They first name "
        "more than half of the digits right after "
        + ", ".join(f"{name} {k[0] + 1} pixels" if k.size else f"{name} never" for name, k in known.items())
        + "."
    )


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        parts, models = load_digits(), make_models(config)
        tasks = {name: make_task(config, model, parts) for name, model in models.items()}
        run = open_study(config, tasks)
    chance = {"the commonest digit": majority(parts)}
    return conduct(
        run,
        (config, default),
        tasks,
        lambda networks, scores: show(models, parts, run, networks, chance, scores),
        script="digit_pixels.py",
        title="Many to one: a digit, pixel by pixel",
        question=f"{', '.join(models)} at equal numbers of parameters on {len(parts.train.classes):,} digits",
        baselines={"accuracy": chance},
        legend="Accuracy: test digits named right, mean over seeds ± half their range; nats: cross-entropy of a digit.",
    )


if __name__ == "__main__":
    sys.exit(main())
