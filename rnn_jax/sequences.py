"""Where a sequence is cut."""

import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def window_cuts(length: int, window: int | Int[Array, ""]) -> Bool[Array, " T"]:
    """Borders of truncated windows: True at every ``window``-th step, but never at the first.

    The first step has no border, so a learned start keeps its gradient, and a window of at least T is full
    back-propagation through time.

    Args:
        length: T, steps.
        window: steps a gradient may go back inside a window; positive, and may be traced.

    Raises:
        ValueError: for a window below 1 that is no array.
        TypeError: for a window that is no whole number.

    >>> window_cuts(5, window=2).tolist()
    [False, False, True, False, True]
    """
    if not isinstance(window, jax.Array) and operator.index(window) < 1:
        raise ValueError(f"window got {window}; want a positive number of steps, or one of at least T for no cut")
    t = jnp.arange(length)
    return (t % window == 0) & (t > 0)
