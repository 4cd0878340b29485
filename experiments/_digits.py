"""Handwritten digits, cut into parts that have none in common."""

from typing import NamedTuple

import numpy as np

from rnn_jax.data.images import digits
from rnn_jax.data.parts import split

CLASSES = 10


class Part(NamedTuple):
    """Images and the digits on them."""

    images: np.ndarray
    """``(N, 8, 8)``, ink from 0 to 1."""
    classes: np.ndarray
    """``(N,)``, 0 … 9."""


class Parts(NamedTuple):
    """The three parts."""

    train: Part
    validation: Part
    test: Part


def load_digits() -> Parts:
    """Seven tenths of the digits to learn from, one to validate on, two to test on."""
    data = digits()
    return Parts(*(Part(data.images[i], data.classes[i]) for i in split(len(data.classes), (0.1, 0.2))))


def draw_batches(part: Part, rng: np.random.Generator, updates: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(updates, B, 8, 8)``, each moved by up to a pixel in both directions, and classes ``(updates, B)``."""
    chosen = rng.integers(len(part.classes), size=(updates, batch_size))
    dy, dx = rng.integers(0, 3, size=(2, updates, batch_size, 1, 1))
    framed = np.pad(part.images, ((0, 0), (1, 1), (1, 1)))
    row, column = np.arange(8)[:, None] + dy, np.arange(8)[None] + dx
    return framed[chosen[..., None, None], row, column], part.classes[chosen]


def majority(parts: Parts) -> float:
    """How often the commonest digit of the training part is right on the test part."""
    commonest = np.bincount(parts.train.classes).argmax()
    return float(np.mean(parts.test.classes == commonest))
