"""How many numbers a cell learns, and cells of equal numbers."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from rnn_jax.types import Cell


def parameter_count(model: Any) -> int:
    """Numbers to learn of whatever has an ``init(key)``, a cell or a layer, counted without making them.

    >>> from rnn_jax import lstm
    >>> parameter_count(lstm(input_size=3, hidden_size=5))  # 4·(3·5 + 5·5 + 5)
    180
    """
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def matching_size(make: Callable[[int], Cell], parameters: int) -> int:
    """The hidden size at which ``make(hidden_size)`` comes closest to a number of parameters.

    Args:
        make: a cell of any hidden size from 1; more units must mean more parameters.
        parameters: the number wanted.

    >>> from rnn_jax import gru
    >>> matching_size(lambda H: gru(3, H), parameters=180)
    6
    """
    count = functools.cache(lambda size: parameter_count(make(size)))
    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - parameters))
