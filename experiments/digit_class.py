# %% [markdown]
# # One to one: which digit is on the image?
#
# The simplest task of the five: one input, one step, one output. A vanilla cell that takes a single step from its start
# state h_0 = 0 computes h = tanh(x W_xh + b_h), and the readout computes y = h W_hy + b_y. So this recurrent network is
# an ordinary network with one hidden layer, and W_hh plays no part. The images are the 1,797 handwritten digits of
# 8 × 8 pixels that scikit-learn carries.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Which digit is on the image? One step of a vanilla cell, on the handwritten digits of scikit-learn."""

    SMOKE: ClassVar = {"hidden_size": 32, "seeds": 2, "evaluations": 2, "updates": 20}

    hidden_size: int = 128
    """Units of the cell."""
    updates: int = 1000
    """Optimizer steps from one evaluation to the next."""
    learning_rate: float = 1e-2
    """The highest learning rate: it rises over the first sixth of the updates, then falls along a cosine."""
    out: Path = Path("runs/digit_class/default")
    """The run folder."""


options = read_options(Options)
options

# %% [markdown]
# ## The digits
# Each image is a vector of 64 numbers between 0 (paper) and 1 (ink). The images are divided at random into three parts:
# the network is trained on the first, evaluated on the second while it is trained, and evaluated on the third once.
# In training every image is moved by up to one pixel in each direction, differently each time: a cheap way to get more
# examples of the same digit.

# %%
import jax
import numpy as np

from rnn_jax import one_to_one, readout, vanilla
from rnn_jax.counting import parameter_count
from rnn_jax.data import digits, draw_moved_digits
from rnn_jax.lab.figures import COLOURS, Picture, confusion_counts, confusion_figure, with_fonts
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.page import add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import class_scores, first_network, open_study, train
from rnn_jax.training import batch_learner

parts, classes = digits(), 10
commonest = np.bincount(parts.train.classes).argmax()
baselines = {"accuracy": {"the commonest digit": float(np.mean(parts.test.classes == commonest))}}
{name: len(part.classes) for name, part in parts._asdict().items()}


# %%
def image_figure(images, titles, below, colour=COLOURS[1]):
    """Images ``(N, 8, 8)`` in rows of nine, each with a title and a line below."""
    lines = max(1, -(-len(images) // 9))
    figure = Picture(figsize=(10.8, 1.75 * lines), layout="constrained")
    axes = figure.subplots(lines, 9, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, title, line in zip(axes.flat, images, titles, below, strict=False):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title, color=colour, fontsize=11)
        axis.text(0.5, -0.05, line, ha="center", va="top", fontsize=11, transform=axis.transAxes)
    return with_fonts(figure)


image_figure(parts.train.images[:9], parts.train.classes[:9], [""] * 9, colour="black")

# %% [markdown]
# ## The network
# `readout` puts the linear map W_hy on the cell; `one_to_one` takes the one step. The loss is the cross-entropy of the
# digit in nats: an even guess among ten digits costs ln 10 ≈ 2.30.

# %%
model = readout(vanilla(64, options.hidden_size), classes)


def logits(params, images):
    """``(*batch, 8, 8) -> (*batch, 10)``."""
    *batch, _, _ = images.shape
    return one_to_one(model, params, model.start(params, tuple(batch)), images.reshape(*batch, 64))


def score(params, images, digit):
    """Accuracy and loss."""
    return class_scores(logits(params, images), digit)


facts = {"hidden_size": options.hidden_size, "parameters": parameter_count(model)}
task = Task(
    batch_learner(
        model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer_of(options), clip=options.clip
    ),
    batches=lambda rng, number: draw_moved_digits(parts.train, rng, options.updates, options.batch_size),
    score=score,
    validation=parts.validation,
    test=parts.test,
    facts=facts,
    memory=memory_of_training(options, model, steps=1, outputs=classes, inputs=64, scored=len(parts.test.classes)),
)
facts

# %% [markdown]
# ## Training
# Three networks, which differ in the seed of their first params and of their batches.

# %%
run = open_study(options, {"tanh": task})
networks, scores = train(options, run, {"tanh": task})
table = score_table(
    run,
    scores,
    baselines=baselines,
    legend="Parameters: with W_hh, which one step from a state of zeros does not use. Accuracy: test digits that are "
    "recognised, mean over seeds ± half their range; nats: cross-entropy of a digit.",
)
table

# %%
curves = learning_curves(run, "accuracy", y="digits recognised", baselines=baselines["accuracy"])
curves

# %% [markdown]
# ## Which digits are taken for others?
# The softmax of the logits is the network's confidence in each digit. Look at the images that the first network gets
# wrong: most of them are hard for people, too.

# %%
images, truth = parts.test
confidences = np.asarray(jax.nn.softmax(logits(first_network(networks, "tanh"), images)))
guesses = confidences.argmax(-1)
wrong = np.flatnonzero(guesses != truth)


def describe_wrong(wrong, images):
    """The sentence under the images that are not recognised."""
    sentence = f"The first network does not recognise {wrong} of {images} test digits."
    return sentence + (" In red its guess and its confidence in it." if wrong else "")


misread = add_figure(
    run,
    "misread",
    image_figure(
        images[wrong[:18]],
        [f"{guesses[i]}? {confidences[i, guesses[i]]:.0%}" for i in wrong[:18]],
        [f"is {truth[i]}" for i in wrong[:18]],
    ),
    ("image", "truth", *map(str, range(classes))),
    [(i, truth[i], *(f"{p:.4f}" for p in row)) for i, row in enumerate(confidences)],
    title="Not recognised",
    sentence=describe_wrong(len(wrong), len(truth)),
)
misread

# %%
counts = confusion_counts(guesses, truth, classes)
labels = [str(digit) for digit in range(classes)]
confusion = add_figure(
    run,
    "confusion",
    confusion_figure(counts, labels),
    ("truth", *labels),
    [(digit, *row) for digit, row in enumerate(counts)],
    title="Which digit is taken for which?",
    sentence="The same network on the test part; each row is a true digit, each column a guess.",
)
confusion

# %% [markdown]
# ## The page
# Everything above is now in the run folder: params, metrics, figures with their numbers, and one page to send around.

# %%
publish(
    run,
    options,
    script="experiments/digit_class.py",
    title="One to one: which digit is on the image?",
    question=f"{len(parts.train.classes):,} handwritten digits to train on, {len(truth)} to test on",
    answer=f"A single step recognises {percent(scores['tanh']['accuracy'])} of unseen digits.",
    sections=[curves, misread, confusion],
    table=table,
)
