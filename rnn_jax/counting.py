"""How many numbers a cell learns, and cells of equal numbers."""

import functools
import math
from collections.abc import Callable

import jax

from rnn_jax.types import Cell


def parameter_count(cell: Cell) -> int:
    """Numbers to learn, counted without making them.

    >>> from rnn_jax import lstm
    >>> parameter_count(lstm(input_size=3, hidden_size=5))  # 4·(3·5 + 5·5 + 5)
    180
    """
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(cell.init, jax.random.key(0))))


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
    size, last = 1, 0
    while size != last:  # counts grow between linearly and quadratically, so each turn comes closer
        size, last = max(1, round(size * math.sqrt(parameters / count(size)))), size
    return min((max(1, size - 1), size, size + 1), key=lambda near: abs(count(near) - parameters))
