"""Randomness as data: keys that travel beside the inputs, one for each step and example."""

from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.checks import require_batch_shape
from rnn_jax.types import Cell, Keyed, Keys


def keyed(key: PRNGKeyArray, xs: PyTree, batch_shape: tuple[int, ...] = ()) -> Keyed:
    """Gives every step of every example a key of its own: training mode, for cells that draw.

    Without keys the same cells take the mean: evaluation mode.

    Args:
        key: all the randomness there is.
        xs: ``(T, *batch, …)``.
        batch_shape: the batch axes of xs, as in ``cell.start``; ``rollout`` refuses keys without those of h0.

    Raises:
        ValueError: when xs does not begin with time and these batch axes.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import keyed, lstm, rollout, zoneout
    >>> cell = zoneout(lstm(input_size=3, hidden_size=4), rate=0.1)
    >>> params, xs = cell.init(jax.random.key(0)), jnp.ones((7, 2, 3))
    >>> h_T, hs = rollout(cell, params, cell.start(params, (2,)), keyed(jax.random.key(1), xs, (2,)))
    >>> mean_h_T, mean_hs = rollout(cell, params, cell.start(params, (2,)), xs)
    """
    require_batch_shape(batch_shape)
    first = jax.tree.leaves(xs)[0]
    if first.shape[1 : 1 + len(batch_shape)] != tuple(batch_shape):
        raise ValueError(f"xs got shape {first.shape}; want (T, *batch, …) with batch_shape {tuple(batch_shape)}")
    return Keyed(xs, jax.random.split(key, (first.shape[0], *batch_shape)))


def check_keys(xs: PyTree, batch: tuple[int, ...]) -> None:
    """Raises a ValueError unless xs, if they have keys, have one for each step of each example.

    Args:
        xs: the inputs of a rollout.
        batch: the batch axes of its state.
    """
    keys = unkey(xs)[1]
    if keys is not None and keys.shape[1:] != batch:
        raise ValueError(
            f"xs got keys of shape {keys.shape}, h0 the batch axes {batch}; want a key for each step of each example: "
            f"keyed(key, xs, batch_shape={batch})"
        )


def unkey(x: PyTree) -> tuple[PyTree, Keys | None]:
    """The input and its key, None if it has none."""
    return (x.x, x.key) if isinstance(x, Keyed) else (x, None)


def feed(cell: Cell, x: PyTree, key: Keys | None, stream: int) -> PyTree:
    """What a cell inside another one is given: x, with a key of its own stream if there is one and it draws."""
    if key is None or not cell.keyed:
        return x
    return Keyed(x, each(lambda k: jax.random.fold_in(k, stream), key))


def each(function: Callable, keys: Keys) -> PyTree:
    """``function`` of each key of an array, stacked along the array's axes."""
    for _ in range(keys.ndim):
        function = jax.vmap(function)
    return function(keys)
