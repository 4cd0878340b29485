"""Parts of a data set for training, validation and test, and packages that carry data."""

import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rnn_jax.machinery.checks import in_one_line, is_whole, require_numbers

__all__ = ["split"]


class Parts(NamedTuple):
    """A data set in three parts that share no example.

    Every loader returns a NamedTuple that begins with these fields. Where the parts share more than that, such as a
    vocabulary, the loader has its own type, and the shared values are further fields of it.
    """

    train: Any
    validation: Any
    """For choices while training: learning rates, early stopping."""
    test: Any
    """For the last score, computed once."""


def split(count: int, parts: Sequence[float], seed: int = 0) -> list[Int[np.ndarray, " n"]]:
    """The numbers 0 … count − 1 in random order, cut into parts that have none in common.

    Args:
        count: number of examples.
        parts: the share of each part after the first; the first part gets the rest.
        seed: of the random order.

    Raises:
        ValueError: for a negative share, or shares that sum to more than 1; for a count or seed below 0.

    >>> [len(part) for part in split(100, (0.1, 0.2))]
    [70, 10, 20]
    """
    wanted = "shares of at least 0 that sum to at most 1"
    for name, number in {"count": count, "seed": seed}.items():
        if not is_whole(number) or number < 0:
            raise ValueError(f"{name} got {in_one_line(number)}; want a whole number of at least 0")
    require_numbers("parts", parts, math.isfinite, wanted)
    sizes = [round(count * share) for share in parts]
    if min(parts, default=0) < 0 or sum(sizes) > count:
        raise ValueError(f"parts got {tuple(parts)} of {count}; want {wanted}")
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, np.cumsum([count - sum(sizes), *sizes[:-1]]))


def majority_accuracy(parts: Any) -> float:
    """Accuracy on the test part of a constant guess: the most frequent class of the training part.

    Args:
        parts: ``train`` and ``test`` have ``classes`` ``(N,)``, as those of ``digits`` and ``language_words`` have.

    >>> from types import SimpleNamespace as Labels
    >>> majority_accuracy(Parts(Labels(classes=[2, 2, 0]), None, Labels(classes=[0, 2, 1, 1])))
    0.25
    """
    guess = np.bincount(parts.train.classes).argmax()
    return float(np.mean(np.asarray(parts.test.classes) == guess))


def extra_package(module: str, name: str) -> Any:
    """A module of an optional package; a ValueError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"this data got no package {name}; want it: pip install 'rnn-jax-lab[data]'") from error
