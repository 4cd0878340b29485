"""Texts that experiments learn from, and the picture of how sure a model is of each next letter."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import Cell, rollout
from rnn_jax.data.text import Vocabulary, vocabulary
from rnn_jax.data.texts import named_text, python_reference, read_text
from rnn_jax.decoding import sample
from rnn_jax.lab.plots import confidence_figure
from rnn_jax.lab.report import Section
from rnn_jax.lab.runs import Run

SHOWN = 72  # letters of the picture
WINDOW = 1024  # characters that are read at once


class Text(NamedTuple):
    """A text as numbers."""

    letters: Vocabulary
    ids: np.ndarray
    """``(N,)``."""
    name: str
    """What a page calls it."""
    sha256: str
    """Of the text, so that only a run on the same text goes on."""


def load_text(file: Path | None, name: str = "") -> Text:
    """A file's text, or a named one, or without either the Python language reference that CPython carries.

    Raises:
        ValueError: when there is no such text, or when it has a single distinct letter.
    """
    if file and name:
        raise ValueError(f"--text and --data got {file} and {name}; want one of them")
    text = read_text(file) if file else named_text(name) if name else python_reference()
    letters = vocabulary(text)
    if letters.size < 2:
        raise ValueError(
            "text got a single distinct character; want at least two, so that there is something to predict"
        )
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Text(letters, letters.encode(text), str(file or name or "the Python language reference"), sha256)


def writer(model: Cell, ids: np.ndarray, length: int) -> Callable[[Any, jax.Array, Any], jax.Array]:
    """``(params, key, temperature) -> ids``: the letters that a model writes after those it was given."""

    def write(params: Any, key: jax.Array, temperature: Any) -> jax.Array:
        h, _ = rollout(model, params, model.start(params), jnp.asarray(ids[:-1]))
        return sample(model, params, key, h, ids[-1], length=length, temperature=temperature).ids

    return write


def draw_confidences(
    run: Run, model: Cell, params: Any, letters: Vocabulary, part: tuple[np.ndarray, np.ndarray]
) -> Section:
    """Draws how sure a model is of each letter, where a text has the fewest blanks and signs.

    Args:
        run: gets the figure ``confidences``.
        model, params: reads ids, and its outputs are logits.
        letters: the vocabulary.
        part: letters and those that follow, each ``(T, B)``, T at least ``SHOWN``.
    """
    lane, begin = _most_letters(letters, part[0])
    before, (xs, targets) = part[0][:begin, lane], (ids[begin : begin + SHOWN, lane] for ids in part)
    _, hs = rollout(model, params, state_after(model, params, before), jnp.asarray(xs))
    p = np.asarray(jax.nn.softmax(model.output(params, hs)))
    read, told = letters.decode(xs), letters.decode(targets)
    rows = [
        (t, read[t], told[t], letters.characters[i], f"{p[t, i]:.5f}")
        for t in range(SHOWN)
        for i in np.argsort(-p[t])[:5]
    ]
    figure = confidence_figure(read, told, p, letters.characters)
    run.draw("confidences", figure, ("place", "read", "next", "guess", "confidence"), rows)
    return Section("How sure it is of the next letter", "confidences", about_confidences(p, targets))


def about_confidences(p: np.ndarray, targets: np.ndarray) -> str:
    """The sentence under the confidences ``(T, V)``, of the letters that came."""
    right = float(np.mean(p.argmax(axis=1) == targets))
    return (
        "The stretch of the held-out text with the fewest blanks and signs, read from left to right along the top "
        "(␣ is a blank, ⏎ a new line). Under each letter stand the five that the network takes for the likeliest to "
        "come next, a bar as long as each is likely: green the right one, red a first guess that is wrong. Here "
        f"{right:.0%} of the first guesses are right."
    )


def state_after(model: Cell, params: Any, ids: np.ndarray) -> Any:
    """The state after a text ``(N,)``, read from the start state on; no more than ``WINDOW`` states are held."""
    read = jax.jit(lambda params, h, xs: rollout(model, params, h, xs)[0])
    h = model.start(params)
    for begin in range(0, len(ids), WINDOW):
        h = read(params, h, jnp.asarray(ids[begin : begin + WINDOW]))
    return h


def _most_letters(letters: Vocabulary, xs: np.ndarray) -> tuple[int, int]:
    """The lane and the place at which a text, past its first hundred letters, has most letters in a row."""
    alphabetic = np.array([letter.isalpha() for letter in letters.characters])[xs]
    count = np.lib.stride_tricks.sliding_window_view(alphabetic, SHOWN, axis=0).sum(axis=-1, dtype=np.uint8)
    warm = min(100, len(count) - 1)  # letters that the network has read before
    place, lane = np.unravel_index(count[warm:].argmax(), count[warm:].shape)
    return int(lane), int(place) + warm
