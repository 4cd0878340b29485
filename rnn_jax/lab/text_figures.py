"""The section of a page that shows how confident a model of text is of each next character."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rnn_jax.data.text import Vocabulary
from rnn_jax.lab.figures import confidence_figure
from rnn_jax.lab.page import Section, add_figure
from rnn_jax.lab.runs import Run
from rnn_jax.schedules import rollout
from rnn_jax.types import Cell, Params, State

__all__ = ["SHOWN", "confidence_section", "state_after"]

SHOWN = 72
"""Characters in the figure."""
WINDOW = 1024
"""Steps of a text whose states are in memory at once."""
WARM_UP = 100
"""Characters at the start of the text that the figure leaves out: the network has little context there."""
GUESSES = 5
"""Characters shown under each place."""


def confidence_section(
    run: Run,
    model: Cell,
    params: Params,
    vocabulary: Vocabulary,
    part: tuple[Int[np.ndarray, "T B"], Int[np.ndarray, "T B"]],
) -> Section:
    """The figure ``confidences``: the likeliest next characters at each step of one stretch of a text.

    The stretch is the one with the most alphabetic characters, as blanks and punctuation are uninformative.

    Args:
        run: the run folder, in which the figure and its numbers are written.
        model, params: a model whose inputs are ids and whose outputs are logits of the next id.
        vocabulary: of the ids.
        part: ids and next ids in B lanes, as ``rnn_jax.data.lanes`` returns them; at least ``SHOWN`` steps.
    """
    lane, begin = _most_alphabetic(vocabulary, part[0])
    xs, targets = (ids[begin : begin + SHOWN, lane] for ids in part)
    _, hs = rollout(model, params, state_after(model, params, part[0][:begin, lane]), jnp.asarray(xs))
    confidences = np.asarray(jax.nn.softmax(model.output(params, hs)))
    inputs, following = vocabulary.decode(xs), vocabulary.decode(targets)
    rows = [
        (t, inputs[t], following[t], vocabulary.characters[i], f"{confidences[t, i]:.5f}")
        for t in range(SHOWN)
        for i in np.argsort(-confidences[t])[:GUESSES]
    ]
    return add_figure(
        run,
        "confidences",
        confidence_figure(inputs, following, confidences, vocabulary.characters, top=GUESSES),
        ("place", "input", "next", "guess", "confidence"),
        rows,
        title="How confident is it of the next character?",
        sentence=describe_confidences(confidences, targets),
    )


def describe_confidences(confidences: Float[np.ndarray, "T V"], targets: Int[np.ndarray, " T"]) -> str:
    """The sentence under the figure, of the confidences in each character and the ids that follow."""
    right = float(np.mean(confidences.argmax(axis=1) == targets))
    return (
        "A stretch of the held-out text with many alphabetic characters, from left to right along the top (␣ is a "
        "blank, ⏎ a new line). Under each character stand the five likeliest next ones; the length of a bar is the "
        "network's confidence. Green is the character that follows, red a first guess that is wrong. Here "
        f"{right:.0%} of the first guesses are right."
    )


def state_after(model: Cell, params: Params, ids: Int[np.ndarray, " N"]) -> State:
    """The state after a text, from the start state on; the memory does not grow with its length.

    Args:
        model, params: a cell whose inputs are ids.
        ids: the text; may be empty.
    """
    advance = jax.jit(lambda params, h, xs: rollout(model, params, h, xs)[0])
    h = model.start(params)
    for begin in range(0, len(ids), WINDOW):
        h = advance(params, h, jnp.asarray(ids[begin : begin + WINDOW]))
    return h


def _most_alphabetic(vocabulary: Vocabulary, xs: Int[np.ndarray, "T B"]) -> tuple[int, int]:
    """The lane and the first step of the stretch with the most alphabetic characters, after the warm-up."""
    is_alphabetic = np.array([character.isalpha() for character in vocabulary.characters])[xs]
    count = np.lib.stride_tricks.sliding_window_view(is_alphabetic, SHOWN, axis=0).sum(axis=-1, dtype=np.uint8)
    warm = min(WARM_UP, len(count) - 1)
    place, lane = np.unravel_index(count[warm:].argmax(), count[warm:].shape)
    return int(lane), int(place) + warm
