"""Figures of characters: how likely a model takes each to be, and which input moved which output."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rnn_jax.lab.figures.style import COLOURS, Picture, visible, with_fonts

__all__ = ["alignment_figure", "confidence_figure", "draw_confidences"]


def confidence_figure(
    read: str, told: str, probabilities: Float[np.ndarray, "T V"], characters: str, *, top: int = 5, width: int = 24
) -> Picture:
    """What a model expects at each place of a text: its likeliest letters as bars, from the likeliest down.

    The right letter is green, a first guess that is wrong red, every other guess grey.

    Args:
        read: the T letters that the model read.
        told: the T letters that came next.
        probabilities: of each letter of the vocabulary, after each letter read.
        characters: the V letters.
        top: guesses that are shown.
        width: places a line.
    """
    lines = max(1, -(-len(read) // width))
    figure = Picture(figsize=(0.52 * min(width, len(read)) + 1.2, (0.22 * top + 0.75) * lines), layout="constrained")
    axes = figure.subplots(lines, 1, squeeze=False)[:, 0]
    for line, axis in enumerate(axes):
        places = slice(line * width, (line + 1) * width)
        draw_confidences(axis, told[places], probabilities[places], characters, read=read[places], top=top)
        axis.set_xlim(-0.1, min(width, len(read)))
    return with_fonts(figure)


def draw_confidences(
    axis: Any,
    told: str,
    probabilities: Float[np.ndarray, "T V"],
    characters: str,
    *,
    read: str = "",
    top: int = 5,
) -> None:
    """One line of ``confidence_figure`` on axes of one's own; what was read stands above it, if given."""
    for column, (letter, of) in enumerate(zip(told, probabilities, strict=True)):
        if read:
            axis.text(column + 0.45, -1.05, visible(read[column]), ha="center", va="center", fontsize=12, weight="bold")
        for row, i in enumerate(np.argsort(-of, kind="stable")[:top]):
            colour = COLOURS[3] if characters[i] == letter else COLOURS[1] if row == 0 else "0.72"
            axis.barh(row, 0.9 * of[i], 0.86, left=column, color=colour)
            axis.text(column + 0.05, row, visible(characters[i]), va="center", fontsize=9)
    axis.set_ylim(top - 0.4, -1.6 if read else -0.6)
    axis.set_axis_off()


def alignment_figure(source: str, written: str, weights: Float[np.ndarray, "K T"]) -> Picture:
    """Which letter of a source moved which letter that was written: a row for each written one, darkest at its own top.

    Args:
        source: T letters.
        written: K letters.
        weights: of each source letter for each written one, at least 0, such as ``input_gradients`` gives.
    """
    size = max(10.8, 0.28 * len(source) + 0.6), 0.28 * len(written) + 0.6  # letters as large in every figure
    figure = Picture(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_anchor("W")
    shares = weights / np.maximum(weights.max(axis=1, keepdims=True), np.finfo(float).tiny)
    axis.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="equal")
    axis.set_xticks(range(len(source)), [visible(letter) for letter in source], fontsize=11)
    axis.set_yticks(range(len(written)), [visible(letter) for letter in written], fontsize=11)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(written) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    return with_fonts(figure)
