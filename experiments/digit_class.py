# %% [markdown]
# # One to one: which digit is on the image?
#
# The simplest shape of work: one input, one step, one output, y = W_hy tanh(W_xh x + b_h) + b_y. A recurrent cell that
# takes a single step from its start is an ordinary network with one hidden layer. The images are the 1,797 handwritten
# digits of 8 × 8 pixels that scikit-learn carries.

# %%
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _digits import CLASSES, Parts, draw_batches, load_digits, majority
from _showing import Scores, Shown, conduct, confusion, draw_curves, shown
from _study import Study, optimizer, read_options
from _training import Networks, Task, classify, first_of, needs_of, open_study
from matplotlib.figure import Figure

from rnn_jax import Cell, one_to_one, readout, vanilla
from rnn_jax.counting import parameter_count
from rnn_jax.lab.plots import COLOURS, confusion_figure
from rnn_jax.lab.report import Section
from rnn_jax.lab.runs import Run, wrong_use
from rnn_jax.training import batch_learner


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """Which digit is on the image? One step of a vanilla cell, on scikit-learn's handwritten digits."""

    hidden_size: int = 128
    """Units of the cell."""
    updates: int = 1000
    """Optimizer steps from one look to the next."""
    learning_rate: float = 1e-2
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    out: Path = Path("runs/digit_class/default")
    """The run folder."""


SMOKE = {"hidden_size": 32, "seeds": 2, "looks": 2, "updates": 20}
NAME = "tanh"


# %% [markdown]
# ## The network
# An image is a vector of 64 numbers. In training each image is moved by up to a pixel, a little different every time.


# %%
def logits(model: Cell, params: Any, images: Any) -> jax.Array:
    """``(*batch, 8, 8) -> (*batch, 10)``."""
    *batch, _, _ = images.shape
    return one_to_one(model, params, model.start(params, tuple(batch)), images.reshape(*batch, 64))


def make_task(config: Config, model: Cell, parts: Parts) -> Task:
    """What is learned from what."""

    def score(params: Any, images: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
        return classify(logits(model, params, images), classes)

    return Task(
        learner=batch_learner(
            model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer(config), clip=config.clip
        ),
        batches=lambda rng, look: draw_batches(parts.train, rng, config.updates, config.batch_size),
        score=score,
        validation=parts.validation,
        test=parts.test,
        facts={"hidden_size": config.hidden_size, "parameters": parameter_count(model)},
        needs=needs_of(config, model, steps=1, outputs=CLASSES, numbers=64, scored=len(parts.test.classes)),
    )


# %% [markdown]
# ## What is shown
# The test digits that a network takes for others, how sure it is of that, and what is taken for what.


# %%
def misread_figure(images: np.ndarray, truth: np.ndarray, confidences: np.ndarray) -> Figure:
    """Images that were misread, with what they were taken for and how surely; at most 18."""
    misread = np.flatnonzero(confidences.argmax(-1) != truth)[:18]
    lines = max(1, -(-len(misread) // 9))
    figure = Figure(figsize=(10.8, 1.75 * lines), layout="constrained")
    axes = figure.subplots(lines, 9, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, i in zip(axes.flat, misread, strict=False):
        guess = confidences[i].argmax()
        axis.imshow(images[i], cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(f"{guess}? {confidences[i, guess]:.0%}", color=COLOURS[1], fontsize=11)
        axis.text(0.5, -0.05, f"is {truth[i]}", ha="center", va="top", fontsize=11, transform=axis.transAxes)
    return figure


def about_misread(counts: np.ndarray) -> str:
    """The sentence under the misread digits, of how often each truth, a row, was taken for each class."""
    wrong = counts.sum() - np.trace(counts)
    says = f"The first network misreads {wrong} of {counts.sum()} test digits."
    return says + (" In red what the first of them were taken for." if wrong else "")


def show(model: Cell, parts: Parts, run: Run, networks: Networks, chance: dict[str, float], scores: Scores) -> Shown:
    """Draws the figures of the first network."""
    params = first_of(networks, NAME)
    images, truth = parts.test
    confidences = np.asarray(jax.nn.softmax(logits(model, params, images)))
    counts = confusion(confidences.argmax(-1), truth, CLASSES)
    labels = [str(digit) for digit in range(CLASSES)]
    rows = [(i, truth[i], *(f"{p:.4f}" for p in row)) for i, row in enumerate(confidences)]
    run.draw("misread", misread_figure(images, truth, confidences), ("image", "truth", *labels), rows)
    run.draw("confusion", confusion_figure(counts, labels), ("truth", *labels), [(i, *r) for i, r in enumerate(counts)])
    sections = [
        draw_curves(run, scores, "accuracy", chance, "digits read right"),
        Section(
            "Misread",
            "misread",
            about_misread(counts),
        ),
        Section("What is taken for what", "confusion", "The same network on the test part; each row is a truth."),
    ]
    return Shown(f"A single step reads {shown(scores[NAME]['accuracy'])} of unseen digits right.", sections)


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        parts = load_digits()
        model = readout(vanilla(64, config.hidden_size), CLASSES)
        tasks = {NAME: make_task(config, model, parts)}
        run = open_study(config, tasks)
    chance = {"the commonest digit": majority(parts)}
    return conduct(
        run,
        (config, default),
        tasks,
        lambda networks, scores: show(model, parts, run, networks, chance, scores),
        script="digit_class.py",
        title="One to one: which digit is on the image?",
        question=f"{len(parts.train.classes):,} handwritten digits to learn from, {len(parts.test.classes)} to test on",
        baselines={"accuracy": chance},
        legend="Parameters: with W_hh, which one step from a state of zeros does not use. Accuracy: test digits read "
        "right, mean over seeds ± half their range; nats: cross-entropy of a digit.",
    )


if __name__ == "__main__":
    sys.exit(main())
