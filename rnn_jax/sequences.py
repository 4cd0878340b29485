"""Lengths, borders and reversal of sequences."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Int, Integer, PyTree, Shaped

from rnn_jax.machinery.checks import in_one_line, is_whole, require_number, require_sequence
from rnn_jax.machinery.sharding import where

__all__ = ["length_mask", "reverse_sequence", "window_cuts"]


def window_cuts(length: int, window: int | Int[Array, ""]) -> Bool[Array, " T"]:
    """Borders of truncated windows: True at every ``window``-th step, but never at the first.

    The first step has no border, so a learned start keeps its gradient, and a window of at least T is full
    back-propagation through time.

    Args:
        length: T, steps.
        window: steps a gradient may go back inside a window; positive, and may be traced.

    Raises:
        ValueError: for a length below 0, a window below 1 that is not traced, or one that is no whole number.

    >>> window_cuts(5, window=2).tolist()
    [False, False, True, False, True]
    """
    require_length(length)
    whole = jnp.issubdtype(getattr(window, "dtype", type(window)), jnp.integer)
    wanted = "a positive number of steps, or one of at least T for no cut"
    require_number("window", window, lambda w: whole and w >= 1, wanted, may_be_traced=whole)
    window = window if isinstance(window, Tracer) else int(window)
    t = jnp.arange(length)
    return (t % window == 0) & (t > 0)


def length_mask(lengths: Integer[ArrayLike, "*batch"], length: int) -> Bool[Array, "T *batch"]:
    """The mask of sequences that end early: True at the first ``lengths`` steps of each example.

    Args:
        lengths: steps of each example, in [0, T]. Traced lengths cannot be checked: beyond T they count as T, and
            negative ones as 0.
        length: T, steps of the longest.

    Raises:
        ValueError: for lengths that are negative or beyond T, or that are no whole numbers; for a T below 0.

    >>> length_mask(jnp.array([2, 0, 3]), 3).astype(int).T.tolist()
    [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    """
    require_length(length)
    require_lengths(lengths, length)
    lengths = jnp.asarray(lengths)
    t = jnp.arange(length, dtype=jnp.int32).reshape(length, *[1] * lengths.ndim)
    shape = (length, *lengths.shape)
    return jnp.broadcast_to(t, shape) < jnp.broadcast_to(lengths.astype(jnp.int32), shape)  # eight bits do not hold T


def require_lengths(lengths: Integer[ArrayLike, "*batch"] | None, length: int) -> None:
    """Raises a ValueError unless lengths, if given and not traced, are whole numbers in [0, T]."""
    if lengths is None:
        return
    lengths = lengths if isinstance(lengths, Tracer) else np.asarray(lengths)  # constants can be checked inside jit too
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths got {lengths.dtype}; want whole numbers of steps in [0, {length}]")
    if not isinstance(lengths, Tracer) and lengths.size:
        shortest, longest = lengths.min(), lengths.max()
        if not 0 <= shortest <= longest <= length:
            raise ValueError(f"lengths got {shortest} … {longest}; want steps in [0, {length}], T of xs")


def require_length(length: int) -> None:
    """Raises a ValueError unless T is a whole number of at least 0."""
    if not is_whole(length) or length < 0:
        raise ValueError(f"length got {in_one_line(length)}; want T, a whole number of steps of at least 0")


def reverse_sequence(
    xs: PyTree[Shaped[Array, "T ..."]], lengths: Integer[ArrayLike, "*batch"]
) -> PyTree[Shaped[Array, "T ..."]]:
    """Each example reversed within its length; the padding after it stays where it is.

    ``rollout(…, reverse=True)`` does not need this: it is for sequences that are written or compared backwards.

    Args:
        xs: ``(T, *batch, …)``.
        lengths: as in ``length_mask``.

    >>> reverse_sequence(jnp.array([[1, 1], [2, 2], [3, 0]]), jnp.array([3, 2])).T.tolist()
    [[3, 2, 1], [2, 1, 0]]
    """

    T = require_sequence(xs)
    inside = length_mask(lengths, T)
    lengths = jnp.asarray(lengths)

    def reversed_array(x: Shaped[Array, "T ..."]) -> Shaped[Array, "T ..."]:
        if x.shape[1 : 1 + lengths.ndim] != lengths.shape:
            raise ValueError(
                f"lengths got shape {lengths.shape}, xs {x.shape}; want the batch axes of xs, (T, *batch, …)"
            )
        t = jnp.broadcast_to(jnp.arange(T).reshape(T, *[1] * lengths.ndim), inside.shape)
        source = where(inside, jnp.broadcast_to(jnp.asarray(lengths, t.dtype), t.shape) - 1 - t, t)
        source = jnp.broadcast_to(jnp.expand_dims(source, range(source.ndim, x.ndim)), x.shape)
        return jnp.take_along_axis(x, source, axis=0)

    return jax.tree.map(reversed_array, xs)


def reversed_borders(borders: Bool[Array, "T ..."] | None) -> Bool[Array, "T ..."] | None:
    """Borders before each step, in the order of reading from the end: those before the step after it.

    >>> reversed_borders(jnp.array([False, False, True, False])).tolist()
    [False, True, False, False]
    """
    return None if borders is None else jnp.concatenate([borders[1:], jnp.zeros_like(borders[:1])])
