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
#
# Each image is a vector of 64 numbers between 0 (paper) and 1 (ink). The images are divided at random into three parts.
# The network is trained on the first part. It is evaluated on the second part while it is trained, and on the third
# part once, at the end. Here are the first images of the training part, each with its digit above it.

# %%
import jax
import numpy as np

from rnn_jax import one_to_one, readout, vanilla
from rnn_jax.counting import parameter_count
from rnn_jax.data import digits, draw_moved_digits, majority_accuracy
from rnn_jax.lab.figures import COLOURS, confusion_counts, confusion_figure, image_figure
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.page import add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import class_scores, first_network, open_study, train
from rnn_jax.training import batch_learner

parts = digits()
CLASSES = 10
image_figure(parts.train.images[:18], [str(digit) for digit in parts.train.classes[:18]])

# %% [markdown]
# The score to compare with needs no network: always guess the commonest digit of the training part. On the test part
# this guess is right for 7.8 % of the images.

# %%
baselines = {"accuracy": {"the commonest digit": majority_accuracy(parts)}}
baselines

# %% [markdown]
# ## The network
#
# `readout` puts the linear map W_hy on the cell; `one_to_one` takes the one step. The ten outputs are logits: their
# softmax is the network's confidence in each digit. The loss is the cross-entropy of the true digit in nats, minus the
# logarithm of the confidence in it. An even guess among ten digits costs ln 10 ≈ 2.30 nats.

# %%
model = readout(vanilla(64, options.hidden_size), CLASSES)


def logits(params, images):
    """``(*batch, 8, 8) -> (*batch, 10)``."""
    *batch, _, _ = images.shape
    return one_to_one(model, params, model.start(params, tuple(batch)), images.reshape(*batch, 64))


def score(params, images, classes):
    """Accuracy and loss."""
    return class_scores(logits(params, images), classes)


facts = {"hidden_size": options.hidden_size, "parameters": parameter_count(model)}
facts

# %% [markdown]
# ## Batches
#
# The training part is small, and a network can learn it by heart. So every image is moved by up to one pixel in each
# direction, differently each time: a cheap way to get more examples of the same digits. This is a batch of nine.

# %%
moved = draw_moved_digits(parts.train, np.random.default_rng(options.seed), updates=1, batch_size=9)
image_figure(moved.images[0], [str(digit) for digit in moved.classes[0]])

# %% [markdown]
# ## Training
#
# A task holds how the network learns and how it is evaluated. The same network is trained several times, each time with
# other first params and other batches, which come from its seed. The spread of the scores shows how much of a
# difference between two scores is chance.

# %%
task = Task(
    learner=batch_learner(
        model.init, lambda params, *batch: score(params, *batch)["loss"], optimizer_of(options), clip=options.clip
    ),
    batches=lambda rng, number: draw_moved_digits(parts.train, rng, options.updates, options.batch_size),
    score=score,
    validation=parts.validation,
    test=parts.test,
    facts=facts,
    memory=memory_of_training(options, model, steps=1, outputs=CLASSES, inputs=64, scored=len(parts.test.classes)),
)
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

# %% [markdown]
# The learning curve shows the accuracy on the validation part, which the network never learns from.

# %%
curves = learning_curves(run, "accuracy", y="digits recognised", baselines=baselines["accuracy"])
curves

# %% [markdown]
# ## Which digits are confused?
#
# These are test images that the first network classifies wrongly, with its confidence in the wrong class. Many of
# them are hard for people, too. The confidence can be high although the class is wrong.

# %%
images, truth = parts.test
confidences = np.asarray(jax.nn.softmax(logits(first_network(networks, "tanh"), images)))
guesses = confidences.argmax(-1)
wrong = np.flatnonzero(guesses != truth)


def describe_wrong(wrong, images):
    """The sentence under the images that are not recognised, from their number and the number of all images."""
    sentence = f"The first network does not recognise {wrong} of {images} test digits."
    return sentence + (" In red its guess and its confidence in it." if wrong else "")


misread = add_figure(
    run,
    "misread",
    image_figure(
        images[wrong[:18]],
        [f"{guesses[i]}? {confidences[i, guesses[i]]:.0%}" for i in wrong[:18]],
        [f"is {truth[i]}" for i in wrong[:18]],
        colour=COLOURS[1],
    ),
    ("image", "truth", *map(str, range(CLASSES))),
    [(i, truth[i], *(f"{p:.4f}" for p in row)) for i, row in enumerate(confidences)],
    title="Not recognised",
    sentence=describe_wrong(len(wrong), len(truth)),
)
misread

# %% [markdown]
# The confusion matrix counts the guesses for every true digit. Counts off the diagonal are errors, and errors are
# not random: digits of similar shape are confused.

# %%
counts = confusion_counts(guesses, truth, CLASSES)
labels = [str(digit) for digit in range(CLASSES)]
confusion = add_figure(
    run,
    "confusion",
    confusion_figure(counts, labels),
    ("truth", *labels),
    [(digit, *row) for digit, row in enumerate(counts)],
    title="Which digits are confused?",
    sentence="The same network on the test part; each row is a true digit, each column a guess.",
)
confusion

# %% [markdown]
# ## The page
#
# The run folder now holds the params of every network, the metrics, each figure with its numbers, and one page with all
# of it, `report.html`, which needs no other file.

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
    details={"baselines": baselines},
)
