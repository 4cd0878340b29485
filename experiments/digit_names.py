# %% [markdown]
# # One to many: the name of a digit
#
# One input, many outputs. An encoder takes a single step on the image of a digit. A linear map, the bridge, turns its
# state into the first state of a decoder, and the decoder writes the English name of the digit character by character:
# s, e, v, e, n, end. After its first state the decoder gets no more of the image. So its state must hold two things:
# which digit it is, and how many characters are written.

# %%
import dataclasses
from pathlib import Path
from typing import ClassVar

from rnn_jax.lab.options import StudyOptions, read_options


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """What is the name of the digit on the image? A decoder that starts from the image writes it as characters."""

    SMOKE: ClassVar = {"hidden_size": 32, "decoder_size": 16, "seeds": 1, "evaluations": 2, "updates": 20}

    hidden_size: int = 128
    """Units of the encoder, which reads the image."""
    decoder_size: int = 64
    """Units of the decoder, a GRU."""
    updates: int = 400
    """Optimizer steps from one evaluation to the next."""
    learning_rate: float = 1e-2
    """The highest learning rate: it rises over the first sixth of the updates, then falls along a cosine."""
    out: Path = Path("runs/digit_names/default")
    """The run folder."""


options = read_options(Options)
options

# %% [markdown]
# ## Images and names
#
# The images are handwritten digits of 8 × 8 pixels, divided into three parts: to train on, to evaluate on while a
# network is trained, and to evaluate on once. The targets are the names above the images.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import encoder_decoder, gru, length_mask, one_to_many, readout, vanilla
from rnn_jax.counting import parameter_count
from rnn_jax.data import digits, draw_moved_digits, majority_accuracy, vocabulary
from rnn_jax.decoding import greedy
from rnn_jax.lab.figures import Picture, draw_confidences, image_figure, with_fonts
from rnn_jax.lab.loop import Task, optimizer_of
from rnn_jax.lab.memory import memory_of_training
from rnn_jax.lab.page import add_figure, learning_curves, percent, publish, score_table
from rnn_jax.lab.study import first_network, open_study, train
from rnn_jax.losses import cross_entropy
from rnn_jax.training import batch_learner

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHARACTERS = vocabulary("".join(NAMES) + "\n")
parts = digits()
image_figure(parts.train.images[:9], [NAMES[digit] for digit in parts.train.classes[:9]])

# %% [markdown]
# A name becomes a sequence of ids. The newline stands for the end of a name, and it is also the first input of the
# decoder, before any character. Names have different lengths, so they are padded with ends, and the loss counts each
# name up to its first end only.

# %%
END = int(CHARACTERS.encode("\n")[0])
LONGEST = 1 + max(map(len, NAMES))
SPELLED = np.stack([CHARACTERS.encode(name.ljust(LONGEST, "\n")) for name in NAMES])  # (10, LONGEST)
LENGTHS = np.array([len(name) + 1 for name in NAMES])  # (10,), with the end
{name: ids.tolist() for name, ids in zip(NAMES, SPELLED, strict=True)}

# %% [markdown]
# The score to compare with needs no network: always write the name of the commonest digit.

# %%
baselines = {"exact": {"the commonest digit's name": majority_accuracy(parts)}}
baselines

# %% [markdown]
# ## The network
#
# `encoder_decoder` joins a vanilla cell, which reads an image as a sequence of one step, and a GRU, which writes. In
# training the decoder reads the true characters before each place, not its own (teacher forcing).
# In evaluation it reads its own characters: `greedy` writes the likeliest character at each place, until the end.

# %%
encoder, decoder = vanilla(64, options.hidden_size), gru(CHARACTERS.size, options.decoder_size)
model = encoder_decoder(encoder, readout(decoder, CHARACTERS.size))


def encode(params, images):
    """The first state of the decoder, for images ``(*batch, 8, 8)``."""
    *batch, _, _ = images.shape
    return model.encode(params, model.start(params, tuple(batch)), images.reshape(1, *batch, 64))


def spell(params, images):
    """The name of each digit as the network writes it, ids ``(LONGEST, *batch)``."""
    first = jnp.full(images.shape[:-2], END)
    return greedy(model.decoder, params, encode(params, images), first, length=LONGEST, end=END)


facts = {"hidden_size": options.decoder_size, "parameters": parameter_count(model)}
facts

# %% [markdown]
# The loss is the cross-entropy of a whole name in nats under teacher forcing. `exact` is the share of names without any
# error, and `characters` the share of characters that are right at their place, the end among them. In training each
# image is moved at random by up to one pixel, which gives more examples of the same digits.


# %%
def loss(params, images, classes):
    """The cross-entropy of the names of these classes ``(N,)``, under teacher forcing."""
    targets, mask = jnp.asarray(SPELLED)[classes].T, length_mask(jnp.asarray(LENGTHS)[classes], LONGEST)
    first = jnp.full(classes.shape, END, targets.dtype)
    return cross_entropy(one_to_many(model.decoder, params, encode(params, images), first, targets), targets, mask)


def score(params, images, classes):
    """Shares of names and of characters that are right when the network reads its own characters, and the loss."""
    same = spell(params, images).ids == jnp.asarray(SPELLED)[classes].T
    mask = length_mask(jnp.asarray(LENGTHS)[classes], LONGEST)
    characters = jnp.sum(same & mask) / jnp.sum(mask)
    return {"exact": jnp.mean(same.all(axis=0)), "characters": characters, "loss": loss(params, images, classes)}


task = Task(
    learner=batch_learner(model.init, loss, optimizer_of(options), clip=options.clip),
    batches=lambda rng, number: draw_moved_digits(parts.train, rng, options.updates, options.batch_size),
    score=score,
    validation=parts.validation,
    test=parts.test,
    facts=facts,
    memory=memory_of_training(
        options,
        model,
        steps=LONGEST,
        outputs=CHARACTERS.size,
        inputs=64,
        scored=LONGEST * len(parts.test.classes),
    ),
)

# %% [markdown]
# ## Training
#
# The same network is trained from several seeds, and each is evaluated on the test part at its end.

# %%
KIND = "tanh to GRU"
run = open_study(options, {KIND: task})
networks, scores = train(options, run, {KIND: task})
table = score_table(
    run,
    scores,
    baselines=baselines,
    legend="H: of the decoder. Exact: names of test digits without an error; characters: right at their place, ends "
    "among them; mean over seeds ± half their range. Nats: cross-entropy of a whole name under teacher forcing.",
)
table

# %% [markdown]
# A name is exact only if every character is right. So this share is below the share of right characters in the metrics:
# a single error in the image spoils a name, but some characters of two names can be the same.

# %%
curves = learning_curves(run, "exact", y="names without an error", baselines=baselines["exact"])
curves

# %% [markdown]
# ## What the network writes
#
# Below, each image stands beside the name that the first network writes for it, with its likeliest characters at each
# place; the longer a bar, the larger the network's confidence. The first character decides most: after "s" the network
# must still distinguish six from seven, after "z" only one name is possible. First come digits whose names are exact,
# one of each, then some with errors.

# %%
params = first_network(networks, KIND)
images, truth = parts.test
written = spell(params, images)
first = jnp.full(truth.shape, END)
logits = one_to_many(model.decoder, params, encode(params, images), first, written.ids)
confidences = np.asarray(jax.nn.softmax(logits)).transpose(1, 0, 2)  # (N, LONGEST, V)
ids, lengths = np.asarray(written.ids).T, np.asarray(written.lengths)
right = (ids == SPELLED[truth]).all(axis=1)
WRONG_SHOWN = 8
one_of_each = [np.flatnonzero((truth == digit) & right)[:1] for digit in range(len(NAMES))]
chosen = np.concatenate([*one_of_each, np.flatnonzero(~right)[:WRONG_SHOWN]])


def spelled_figure(chosen):
    """A figure of these test images, two a row: the digit, and the likeliest characters at each place."""
    lines = max(1, -(-len(chosen) // 2))
    figure = Picture(figsize=(10.8, 0.95 * lines), layout="constrained")
    grid = figure.subplots(lines, 4, squeeze=False, width_ratios=(1, 6, 1, 6))
    for axis in grid.flat:
        axis.set_axis_off()
    for n, image, name in zip(chosen, grid[:, ::2].flat, grid[:, 1::2].flat, strict=False):
        image.imshow(images[n], cmap="gray_r", vmin=0, vmax=1)
        true_name = CHARACTERS.decode(SPELLED[truth[n]])[: lengths[n]]
        draw_confidences(name, true_name, confidences[n][: lengths[n]], CHARACTERS.characters, top=3)
        name.set_xlim(-0.1, LONGEST)
    return with_fonts(figure)


def describe_spelled(truth, right):
    """The sentence under the names, from the classes and whether each name is exact."""
    exact, wrong = len(np.unique(truth[right])), int((~right).sum())
    shown = [f"one of each of the {exact} digits whose names are exact"] if exact else []
    shown += [f"{min(wrong, WRONG_SHOWN)} of those with errors"] if wrong else []
    return (
        f"The first network writes {wrong} of {len(truth)} names of test digits with errors. Shown are "
        f"{' and '.join(shown)}, with the likeliest characters at each place: green if right, red for a wrong first "
        "guess; ⏎ is the end."
    )


spelled = add_figure(
    run,
    "spelled",
    spelled_figure(chosen),
    ("image", "truth", "place", "character", "confidence"),
    [
        (n, truth[n], place, CHARACTERS.decode([i]).strip() or "end", f"{confidences[n, place, i]:.4f}")
        for n in chosen
        for place, i in enumerate(ids[n])
    ],
    title="Spelled",
    sentence=describe_spelled(truth, right),
)
spelled

# %% [markdown]
# These are the first names with errors. Most of them are correct names of another digit: the image was classified as
# that digit. A name that is no word at all would be an error of the decoder.

# %%
errors = [f"{NAMES[truth[n]]} became {CHARACTERS.decode(ids[n]).partition(chr(10))[0]}" for n in np.flatnonzero(~right)]
errors[:20]

# %% [markdown]
# ## The page
#
# The run folder now holds the params of every network, the metrics, each figure with its numbers, and one page with all
# of it, `report.html`, which needs no other file.

# %%
publish(
    run,
    options,
    script="experiments/digit_names.py",
    title="One to many: the name of a digit",
    question=f"{len(parts.train.classes):,} handwritten digits to train on, {len(parts.test.classes)} to test on",
    answer=f"{percent(scores[KIND]['exact'])} of unseen digits get their name without an error.",
    sections=[spelled, curves],
    table=table,
    samples={"Names with errors": "\n".join(errors)} if errors else {},
    details={"baselines": baselines},
)
