"""Figures of characters: the confidence in each next one, and which input influenced which output."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rnn_jax.lab.figures.style import COLOURS, Picture, visible_character, with_fonts

__all__ = ["alignment_figure", "confidence_figure", "draw_confidences"]

NARROWEST = 20
"""Columns of a figure of confidences at least: a page scales it to its own width, and fewer would be too large."""


def confidence_figure(
    inputs: str,
    targets: str,
    confidences: Float[np.ndarray, "T V"],
    characters: str,
    *,
    top: int = 5,
    width: int = 24,
) -> Picture:
    """The likeliest next characters at each step of a text as bars, from the likeliest down.

    The character that follows is green, a first guess that is wrong red, and every other guess grey.

    Args:
        inputs: T characters, along the top.
        targets: the T characters that follow them.
        confidences: the probability of each character of the vocabulary after each input.
        characters: the V characters of the vocabulary.
        top: guesses under each input.
        width: steps in a line.
    """
    lines, columns = max(1, -(-len(inputs) // width)), min(width, max(len(inputs), NARROWEST))
    figure = Picture(figsize=(0.52 * columns + 1.2, (0.22 * top + 0.75) * lines), layout="constrained")
    axes = figure.subplots(lines, 1, squeeze=False)[:, 0]
    for line, axis in enumerate(axes):
        steps = slice(line * width, (line + 1) * width)
        draw_confidences(axis, targets[steps], confidences[steps], characters, inputs=inputs[steps], top=top)
        axis.set_xlim(-0.1, columns)
    return with_fonts(figure)


def draw_confidences(
    axis: Any,
    targets: str,
    confidences: Float[np.ndarray, "T V"],
    characters: str,
    *,
    inputs: str = "",
    top: int = 5,
) -> None:
    """Draws one line of ``confidence_figure`` on the axes of any figure; the inputs stand above it, if given."""
    for column, (target, of) in enumerate(zip(targets, confidences, strict=True)):
        if inputs:
            above = visible_character(inputs[column])
            axis.text(column + 0.45, -1.05, above, ha="center", va="center", fontsize=12, weight="bold")
        for row, i in enumerate(np.argsort(-of, kind="stable")[:top]):
            colour = COLOURS[3] if characters[i] == target else COLOURS[1] if row == 0 else "0.72"
            axis.barh(row, 0.9 * of[i], 0.86, left=column, color=colour)
            axis.text(column + 0.05, row, visible_character(characters[i]), va="center", fontsize=9)
    axis.set_ylim(top - 0.4, -1.6 if inputs else -0.6)
    axis.set_axis_off()


def alignment_figure(source: str, written: str, weights: Float[np.ndarray, "K T"]) -> Picture:
    """The influence of each input character on each output character: a row for each output, with its own scale.

    Args:
        source: T input characters.
        written: K output characters.
        weights: of each input for each output, at least 0, as ``input_gradients`` returns them.
    """
    size = max(10.8, 0.28 * len(source) + 0.6), 0.28 * len(written) + 0.6  # equal cells in every figure
    figure = Picture(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_anchor("W")
    shares = weights / np.maximum(weights.max(axis=1, keepdims=True), np.finfo(float).tiny)
    axis.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="equal")
    axis.set_xticks(range(len(source)), [visible_character(character) for character in source], fontsize=11)
    axis.set_yticks(range(len(written)), [visible_character(character) for character in written], fontsize=11)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(written) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    return with_fonts(figure)
