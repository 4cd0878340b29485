"""Images of handwritten digits."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from rnn_jax.data.parts import Parts, extra_package, split
from rnn_jax.machinery.checks import require_positive


class Digits(NamedTuple):
    """Images of handwritten digits and their classes."""

    images: Float[np.ndarray, "*N 8 8"]
    """Ink, from 0 to 1."""
    classes: Int[np.ndarray, "*N"]
    """The digit, 0 … 9."""

    example_axes = (0, 0)


def digits() -> Parts:
    """The 1,797 handwritten digits of 8 × 8 pixels from scikit-learn: 70 % to train on, 10 % validation, 20 % test.

    Each part is a ``Digits``. The cut is random and always the same.

    Raises:
        ValueError: when scikit-learn is missing.

    >>> parts = digits()
    >>> parts.train.images.shape, parts.validation.images.shape, parts.test.classes.shape
    ((1258, 8, 8), (180, 8, 8), (359,))

    Reference: Alpaydin, Kaynak. Optical recognition of handwritten digits. 1998.
    """
    found = extra_package("sklearn.datasets", "scikit-learn").load_digits()
    images, classes = (found.images / 16).astype(np.float32), found.target.astype(np.int32)
    return Parts(*(Digits(images[i], classes[i]) for i in split(len(classes), (0.1, 0.2))))


def shift_images(
    images: Num[np.ndarray, "*N H W"], rng: np.random.Generator, *, pixels: int = 1
) -> Num[np.ndarray, "*N H W"]:
    """Images, each moved at random by up to ``pixels`` in both directions: augmentation for training.

    All (2 · pixels + 1)² displacements are equally likely. Zeros move in at the borders.

    Args:
        images: with any leading axes.
        rng: NumPy's random generator; two integers are drawn from it for each image.
        pixels: the largest displacement.

    Raises:
        ValueError: when ``pixels`` is no positive integer.

    >>> shift_images(np.eye(3), np.random.default_rng(0))
    array([[0., 1., 0.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """
    require_positive(pixels=pixels)
    *leading, height, width = images.shape
    dy, dx = rng.integers(0, 2 * pixels + 1, size=(2, *leading, 1, 1)).reshape(2, -1, 1, 1)
    framed = np.pad(images.reshape(-1, height, width), ((0, 0), (pixels, pixels), (pixels, pixels)))
    rows, columns = np.arange(height)[:, None] + dy, np.arange(width)[None] + dx
    return framed[np.arange(len(framed))[:, None, None], rows, columns].reshape(images.shape)
