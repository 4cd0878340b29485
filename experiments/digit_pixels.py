# %% [markdown]
# # Many to one: a digit, pixel by pixel
#
# Many inputs, one output. The image of a digit is read as a sequence of 64 numbers, row by row, and only the last state
# decides which digit it is. The first pixels are then 64 steps back, so a network must keep them in its state. This
# script compares tanh, ReLU, GRU and LSTM at equal numbers of parameters. It also reads the output of the same networks
# after each pixel: how early is the digit recognised?
#
# Le, Jaitly, Hinton. A simple way to initialize recurrent networks of rectified linear units. 2015 (on larger images).

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options, require_choices

CELLS = ("tanh", "relu", "gru", "lstm")


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Which digit is it, read as a sequence of 64 pixels? tanh, ReLU, GRU and LSTM at equal numbers of parameters."""

    SMOKE: ClassVar = {"cells": ("gru",), "hidden_size": 12, "seeds": 1, "evaluations": 2, "updates": 10}

    cells: tuple[str, ...] = CELLS
    """Of tanh, relu, gru, lstm."""
    hidden_size: int = 64
    """Units of the LSTM that sets the number of parameters; every cell gets as many units as give the same number."""
    updates: int = 120
    """Optimizer steps from one evaluation to the next."""
    out: Path = Path("runs/digit_pixels/default")
    """The run folder."""


options = read_options(Options)
require_choices(options, "cells", CELLS)
options

# %% [markdown]
# ## The digits as sequences
#
# The images are handwritten digits of 8 × 8 pixels, divided into three parts: to train on, to evaluate on while a
# network is trained, and to evaluate on once. In training each image is moved at random by up to one pixel, which gives
# more examples of the same digits.

# %%
from functools import partial

import jax
import numpy as np

from rnn_jax import gru, irnn, lstm, many_to_many, many_to_one, readout, vanilla
from rnn_jax.counting import matching_size, parameter_count
from rnn_jax.data import digits, draw_moved_digits, majority_accuracy
from rnn_jax.lab.figures import Curve, curve_figure, image_figure
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training, require_memory
from rnn_jax.lab.page import add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import class_scores, open_study, train
from rnn_jax.training import batch_learner

parts, classes = digits(), 10
image_figure(parts.train.images[:9], [str(digit) for digit in parts.train.classes[:9]])

# %% [markdown]
# These are the inputs of the first two images: 64 numbers, one after the other. Every eight steps a new row
# begins, and two neighbours in the image, one below the other, are eight steps apart in the sequence.


# %%
def as_sequence(images):
    """``(N, 8, 8) -> (64, N, 1)``: one pixel at each step."""
    return images.reshape(-1, 64).T[..., None]


pixels = np.arange(1, 65)
sequences = as_sequence(parts.train.images[:2])[..., 0]
names = [f"image {n + 1}, a {parts.train.classes[n]}" for n in range(2)]
curve_figure({name: (pixels, sequences[:, n]) for n, name in enumerate(names)}, x="pixel", y="ink")

# %% [markdown]
# The score to compare with needs no network: always guess the commonest digit.

# %%
baselines = {"accuracy": {"the commonest digit": majority_accuracy(parts)}}
baselines

# %% [markdown]
# ## The networks
#
# Each network reads one number at a step and has ten outputs. `relu` begins with the identity as W_hh, so its state
# keeps its length at first. An LSTM has four products where tanh has one; so that none has an advantage, each cell gets
# the number of units H with which it has as many parameters as the LSTM.

# %%
cell_of = {"tanh": vanilla, "relu": irnn, "gru": gru, "lstm": lstm}


def make_model(name, hidden_size):
    """A cell that reads one pixel at a step, with ten outputs."""
    return readout(cell_of[name](1, hidden_size), classes)


budget = parameter_count(make_model("lstm", options.hidden_size))
require_memory(options, hidden_size=16 * budget)
sizes = {name: matching_size(partial(make_model, name), budget) for name in options.cells}
models = {name: make_model(name, H) for name, H in sizes.items()}
facts = {name: {"hidden_size": sizes[name], "parameters": parameter_count(models[name])} for name in models}
facts

# %% [markdown]
# ## Training
#
# `many_to_one` reads the whole sequence and returns the output of the last step. All networks see the same batches in
# the same order, with the same learning rates, and the gradient of the last step goes back through all 64.


# %%
def make_task(name):
    """The task of one kind of network."""
    model = models[name]

    def score(params, images, digit):
        xs, h0 = as_sequence(images), model.start(params, digit.shape)
        return class_scores(many_to_one(model, params, h0, xs), digit)

    return Task(
        learner=batch_learner(
            model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer_of(options), clip=options.clip
        ),
        batches=lambda rng, number: draw_moved_digits(parts.train, rng, options.updates, options.batch_size),
        score=score,
        validation=parts.validation,
        test=parts.test,
        facts=facts[name],
        memory=memory_of_training(
            options, model, steps=64, outputs=classes, inputs=64, scored=64 * len(parts.test.classes)
        ),
    )


tasks = {name: make_task(name) for name in models}
run = open_study(options, tasks)
networks, scores = train(options, run, tasks)
table = score_table(
    run,
    scores,
    baselines=baselines,
    legend="Accuracy: test digits that are recognised, mean over seeds ± half their range; nats: cross-entropy of a "
    "digit.",
)
table

# %% [markdown]
# The learning curves show how fast each kind learns. The gated cells, GRU and LSTM, can keep their state over many
# steps, and so the gradient reaches the first pixels; tanh has to find weights with which it does.

# %%
curves = learning_curves(run, "accuracy", y="digits recognised", baselines=baselines["accuracy"])
curves

# %% [markdown]
# ## How early is the digit recognised?
#
# The networks were trained on their last output only. But the readout can be applied to every state: `many_to_many`
# returns the output after each pixel. Until the ink of a digit begins, all inputs are 0; many digits are recognised
# before the last rows.


# %%
def accuracy_after_each_pixel(model, params, images, digit):
    """``(64,)``: the share of images whose digit has the largest output after each pixel."""
    ys = many_to_many(model, params, model.start(params, digit.shape), as_sequence(images))
    return (ys.argmax(axis=-1) == digit).mean(axis=1)


after = {}
for name, of_seed in networks.items():
    accuracy = jax.jit(partial(accuracy_after_each_pixel, models[name]))
    after[name] = Curve(pixels, np.array([accuracy(params, *parts.test) for params in of_seed.values()]).T)


def describe_pixels(curves):
    """The sentence under the accuracies after each pixel, ``{kind: Curve}``."""
    above = {name: np.flatnonzero(curve.values.mean(1) > 0.5) for name, curve in curves.items()}
    first = [f"{name} {k[0] + 1} pixels" if k.size else f"{name} never" for name, k in above.items()]
    return (
        "The outputs of the same networks after each pixel, although only the last output was trained. They first "
        f"recognise more than half of the digits after {', '.join(first)}."
    )


after_each_pixel = add_figure(
    run,
    "after_each_pixel",
    curve_figure(
        after,
        x="pixels read, eight a row",
        y="test digits recognised",
        baselines=baselines["accuracy"],
        percent=True,
    ),
    ("cell", "pixels", "accuracy"),
    [(name, k, f"{mean:.4f}") for name, curve in after.items() for k, mean in enumerate(curve.values.mean(1), 1)],
    title="How early is the digit recognised?",
    sentence=describe_pixels(after),
)
after_each_pixel

# %% [markdown]
# ## The page
#
# The run folder now holds the params of every network, the metrics, each figure with its numbers, and one page with all
# of it, `report.html`, which needs no other file.

# %%
recognised = ", ".join(f"{name} {percent(of['accuracy'])}" for name, of in scores.items())
publish(
    run,
    options,
    script="experiments/digit_pixels.py",
    title="Many to one: a digit, pixel by pixel",
    question=f"{', '.join(models)} at equal numbers of parameters on {len(parts.train.classes):,} digits",
    answer=f"After 64 pixels these shares of unseen digits are recognised: {recognised}.",
    sections=[curves, after_each_pixel],
    table=table,
    details={"baselines": baselines},
)
