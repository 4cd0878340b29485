"""Errors that say got, wanted, and the fix."""

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike


def require_positive(**sizes: int) -> None:
    """Raises a ValueError that names the first size which is not a positive integer.

    >>> require_positive(input_size=3, hidden_size=0)
    Traceback (most recent call last):
    ValueError: hidden_size got 0; want a positive integer, for example hidden_size=128
    """
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} got {size}; want a positive integer, for example {name}=128")


def require_id(vocabulary_size: int, **ids: ArrayLike | None) -> None:
    """Raises a ValueError that names the first id outside the vocabulary; None and traced ids pass.

    >>> require_id(3, first=2, end=3)
    Traceback (most recent call last):
    ValueError: end got 3; want ids in [0, 3), the vocabulary
    """
    for name, given in ids.items():
        if given is None or isinstance(given, Tracer):
            continue
        known = np.ravel(given)
        outside = known[(known < 0) | (known >= vocabulary_size)]
        if outside.size:
            raise ValueError(f"{name} got {outside[0]}; want ids in [0, {vocabulary_size}), the vocabulary")
