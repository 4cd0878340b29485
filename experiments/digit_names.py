# %% [markdown]
# # One to many: an image is spelled
#
# One input, many outputs: a cell takes a single step on the image of a digit, a linear map turns what it has seen into
# the first state of a decoder, and the decoder spells the digit's English name letter by letter, s, e, v, e, n, end.
# Training tells the decoder the right letters before each place (teacher forcing); in evaluation it must read its own.
# Nothing but its state tells it which digit it is spelling, and how far it has come.

# %%
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _digits import CLASSES, Parts, draw_batches, load_digits, majority
from _showing import Scores, Shown, conduct, draw_curves, shown
from _study import Study, optimizer, read_options
from _training import Networks, Task, first_of, needs_of, open_study
from matplotlib.figure import Figure

from rnn_jax import encoder_decoder, gru, length_mask, one_to_many, readout, vanilla
from rnn_jax.bridges import EncoderDecoder
from rnn_jax.counting import parameter_count
from rnn_jax.data.text import vocabulary
from rnn_jax.decoding import Decoded, greedy
from rnn_jax.lab.plots import draw_confidences
from rnn_jax.lab.report import Section
from rnn_jax.lab.runs import Run, wrong_use
from rnn_jax.losses import cross_entropy
from rnn_jax.training import batch_learner


@dataclasses.dataclass(frozen=True)
class Config(Study):
    """What is the name of the digit on the image? A decoder that starts from the image spells it letter by letter."""

    hidden_size: int = 128
    """Units of the cell that sees the image."""
    decoder_size: int = 64
    """Units of the decoder, a GRU."""
    updates: int = 400
    """Optimizer steps from one look to the next."""
    learning_rate: float = 1e-2
    """The highest of Adam: up to it over the first sixth of the updates, then down along a cosine."""
    out: Path = Path("runs/digit_names/default")
    """The run folder."""


SMOKE = {"hidden_size": 32, "decoder_size": 16, "seeds": 1, "looks": 2, "updates": 20}
NAME = "tanh to GRU"
WRONG_SHOWN = 8  # names that are not right, in the picture


# %% [markdown]
# ## The names
# An end closes every name, and the same sign opens it: what the decoder reads before the first letter.

# %%
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = vocabulary("".join(NAMES) + "\n")
END = int(LETTERS.encode("\n")[0])
LONGEST = 1 + max(map(len, NAMES))
SPELLED = np.stack([LETTERS.encode(name.ljust(LONGEST, "\n")) for name in NAMES])
"""``(10, LONGEST)``: each name, filled up with ends."""
LENGTHS = np.array([len(name) + 1 for name in NAMES])
"""``(10,)``: letters of each name, with its end."""


# %% [markdown]
# ## The network


# %%
def make_model(config: Config) -> EncoderDecoder:
    """An image as a sequence of one step, then a name."""
    encoder = vanilla(64, config.hidden_size)
    return encoder_decoder(encoder, readout(gru(LETTERS.size, config.decoder_size), LETTERS.size))


def see(model: EncoderDecoder, params: Any, images: Any) -> Any:
    """The decoder's first state, of images ``(*batch, 8, 8)``."""
    *batch, _, _ = images.shape
    return model.encode(params, model.start(params, tuple(batch)), images.reshape(1, *batch, 64))


def spell(model: EncoderDecoder, params: Any, images: Any) -> Decoded:
    """Writes the name of each digit, ``(LONGEST, *batch)``, reading its own letters."""
    first = jnp.full(images.shape[:-2], END)
    return greedy(model.decoder, params, see(model, params, images), first, length=LONGEST, end=END)


def make_task(config: Config, model: EncoderDecoder, parts: Parts) -> Task:
    """What is learned from what."""

    def loss(params: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
        targets, mask = jnp.asarray(SPELLED)[classes].T, length_mask(jnp.asarray(LENGTHS)[classes], LONGEST)
        first = jnp.full(classes.shape, END, targets.dtype)
        logits = one_to_many(model.decoder, params, see(model, params, images), first, targets)
        return cross_entropy(logits, targets, mask)

    def score(params: Any, images: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
        same = spell(model, params, images).ids == jnp.asarray(SPELLED)[classes].T
        known = length_mask(jnp.asarray(LENGTHS)[classes], LONGEST)
        letters = jnp.sum(same & known) / jnp.sum(known)
        return {"exact": jnp.mean(same.all(axis=0)), "letters": letters, "loss": loss(params, images, classes)}

    return Task(
        learner=batch_learner(model.init, loss, optimizer(config), clip=config.clip),
        batches=lambda rng, look: draw_batches(parts.train, rng, config.updates, config.batch_size),
        score=score,
        validation=parts.validation,
        test=parts.test,
        facts={
            "hidden_size": config.decoder_size,
            "parameters": parameter_count(model),
        },
        needs=needs_of(
            config, model, steps=LONGEST, outputs=LETTERS.size, numbers=64, scored=LONGEST * len(parts.test.classes)
        ),
    )


# %% [markdown]
# ## What is shown
# The image of a digit beside the name that was spelled, and how sure the decoder was at every letter: ten digits that
# were spelled right, one of each, then those that were not.


# %%
def spelled_figure(images: np.ndarray, truth: np.ndarray, lengths: np.ndarray, confidences: np.ndarray) -> Figure:
    """A row for each image: the digit, and the decoder's likeliest letters at each place.

    Args:
        images: ``(N, 8, 8)``.
        truth: ``(N,)``, the digits.
        lengths: ``(N,)``, letters that were spelled, with the end.
        confidences: ``(N, LONGEST, V)``.
    """
    figure = Figure(figsize=(10.8, 0.95 * -(-len(images) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(images) // 2), 4, squeeze=False, width_ratios=(1, 6, 1, 6))
    for axis in grid.flat:
        axis.set_axis_off()
    for n, (digit, letters) in enumerate(zip(grid[:, ::2].flat, grid[:, 1::2].flat, strict=True)):
        if n == len(images):
            break
        digit.imshow(images[n], cmap="gray_r", vmin=0, vmax=1)
        told = LETTERS.decode(SPELLED[truth[n]])
        draw_confidences(letters, told[: lengths[n]], confidences[n][: lengths[n]], LETTERS.characters, top=3)
        letters.set_xlim(-0.1, LONGEST)
    return figure


def about_spelled(truth: np.ndarray, right: np.ndarray) -> str:
    """The sentence under the spelled digits, of their classes and whether each is spelled right."""
    digits, wrong = len(np.unique(truth[right])), int((~right).sum())
    drawn = [f"one of each of the {digits} digits that it spells right"] if digits else []
    drawn += [f"{min(wrong, WRONG_SHOWN)} of those that it misspells"] if wrong else []
    return (
        f"The first network misspells {wrong} of {len(truth)} test digits. Here are {' and '.join(drawn)}, with the "
        "likeliest letters of each place: green if right, red a wrong first guess; ⏎ is the end."
    )


def show(model: EncoderDecoder, parts: Parts, run: Run, networks: Networks, chance: dict, scores: Scores) -> Shown:
    """Draws the figures of the first network."""
    params = first_of(networks, NAME)
    images, truth = parts.test
    written = spell(model, params, images)
    told = one_to_many(model.decoder, params, see(model, params, images), jnp.full(truth.shape, END), written.ids)
    ids, confidences = np.asarray(written.ids).T, np.asarray(jax.nn.softmax(told)).transpose(1, 0, 2)
    right = (ids == SPELLED[truth]).all(axis=1)
    one_of_each = [np.flatnonzero((truth == digit) & right)[:1] for digit in range(CLASSES)]
    chosen = np.concatenate([*one_of_each, np.flatnonzero(~right)[:WRONG_SHOWN]])
    figure = spelled_figure(images[chosen], truth[chosen], np.asarray(written.lengths)[chosen], confidences[chosen])
    rows = [
        (
            image,
            truth[image],
            place,
            LETTERS.decode([letter]).strip() or "end",
            f"{confidences[image, place, letter]:.4f}",
        )
        for image in chosen
        for place, letter in enumerate(ids[image])
    ]
    run.draw("spelled", figure, ("image", "truth", "place", "letter", "confidence"), rows)
    wrong = [f"{NAMES[truth[i]]} read as " + LETTERS.decode(ids[i]).split("\n")[0] for i in np.flatnonzero(~right)]
    sections = [
        Section("Spelled", "spelled", about_spelled(truth, right)),
        draw_curves(run, scores, "exact", chance, "names spelled right"),
    ]
    samples = {"Names that were not right": "\n".join(wrong)} if wrong else {}
    answer = f"Of unseen digits {shown(scores[NAME]['exact'])} are spelled without a fault, letter after letter."
    return Shown(answer, sections, samples)


# %%
def main(argv: list[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    with wrong_use():
        config, default = read_options(Config, SMOKE, argv)
        parts = load_digits()
        model = make_model(config)
        tasks = {NAME: make_task(config, model, parts)}
        run = open_study(config, tasks)
    chance = {"the commonest digit's name": majority(parts)}
    return conduct(
        run,
        (config, default),
        tasks,
        lambda networks, scores: show(model, parts, run, networks, chance, scores),
        script="digit_names.py",
        title="One to many: an image is spelled",
        question=f"{len(parts.train.classes):,} handwritten digits to learn from, {len(parts.test.classes)} to test on",
        baselines={"exact": chance},
        legend="H: of the decoder. Exact: names of test digits without a fault; letters: right at their place, ends "
        "among them; mean over seeds ± half their range. Nats: cross-entropy of a whole name under teacher forcing.",
    )


if __name__ == "__main__":
    sys.exit(main())
