"""Figures of a classifier: images with their classes, and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from rnn_jax.lab.figures.style import Picture, figure_label, with_fonts

__all__ = ["confusion_counts", "confusion_figure", "image_figure"]


def image_figure(
    images: Float[np.ndarray, "N height width"],
    titles: Sequence[str],
    below: Sequence[str] = (),
    *,
    colour: str = "black",
    across: int = 9,
) -> Picture:
    """Grey images in rows, dark where the number is large.

    Args:
        images: numbers from 0 (white) to 1 (black).
        titles: a line above each image.
        below: a line below each image, if given.
        colour: of the titles.
        across: images in a row.

    >>> figure = image_figure(np.zeros((10, 8, 8)), [str(digit) for digit in range(10)])
    >>> sum(bool(axis.images) for axis in figure.axes), figure.axes[9].get_title()
    (10, '9')
    """
    lines = max(1, -(-len(images) // across))
    figure = Picture(figsize=(1.2 * across, (1.75 if below else 1.55) * lines), layout="constrained")
    axes = figure.subplots(lines, across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for n, (axis, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(figure_label(title), color=colour, fontsize=11)
        if below:
            axis.text(0.5, -0.05, figure_label(below[n]), ha="center", va="top", fontsize=11, transform=axis.transAxes)
    return with_fonts(figure)


def confusion_counts(
    guesses: Int[np.ndarray, " N"], truth: Int[np.ndarray, " N"], classes: int
) -> Int[np.ndarray, "C C"]:
    """Counts of a classifier's guesses: each row is a true class, each column a guess.

    >>> confusion_counts(np.array([1, 1, 2, 0]), np.array([1, 0, 2, 0]), classes=3).tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    return np.bincount(truth * classes + guesses, minlength=classes * classes).reshape(classes, classes)


def confusion_figure(counts: Int[np.ndarray, "C C"], labels: Sequence[str]) -> Picture:
    """A confusion matrix: each row is a true class, shaded by the share of each predicted class; counts inside."""
    size = 1.6 + 0.58 * len(labels)
    figure = Picture(figsize=(size + 0.8, size), layout="constrained")
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            shade = "white" if share[row, column] > 0.5 else "0.25"
            axis.text(column, row, f"{count}", ha="center", va="center", color=shade, fontsize=9)
    names = [figure_label(label, 20) for label in labels]
    axis.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(labels)), names)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return with_fonts(figure)
