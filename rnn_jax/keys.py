"""Random keys as data, beside the inputs: one key for each step and example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from rnn_jax.machinery.checks import require_batch_shape, require_sequence
from rnn_jax.types import Keyed, Keys

__all__ = ["keyed", "unkey"]


def keyed(key: PRNGKeyArray, xs: PyTree, batch_shape: tuple[int, ...] = ()) -> Keyed:
    """The inputs with a separate random key for every step of every example: training mode, for cells with dropout.

    Without keys the same cells compute the mean: evaluation mode.

    Args:
        key: the only source of randomness.
        xs: ``(T, *batch, …)``.
        batch_shape: the batch axes of xs, as in ``cell.start``; they must be those of h0.

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
    T, first = require_sequence(xs), jax.tree.leaves(xs)[0]
    if first.shape[1 : 1 + len(batch_shape)] != tuple(batch_shape):
        raise ValueError(f"xs got shape {first.shape}; want (T, *batch, …) with batch_shape {tuple(batch_shape)}")
    return Keyed(xs, jax.random.split(one_key(key), (T, *batch_shape)))


def typed_key(key: Any) -> Keys:
    """A key, or an array of them, as typed ones: those of ``jax.random.PRNGKey`` are wrapped.

    Raises:
        ValueError: for anything that is not a key.

    >>> typed_key(jax.random.PRNGKey(0)) == jax.random.key(0), typed_key(jax.random.PRNGKey(0)).shape
    (Array(True, dtype=bool), ())
    >>> typed_key(0)
    Traceback (most recent call last):
    ValueError: key got int; want a key, such as jax.random.key(0) makes
    """
    if hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    try:
        return jax.random.wrap_key_data(key)
    except TypeError:
        kind = f"{key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else type(key).__name__
        raise ValueError(f"key got {kind}; want a key, such as jax.random.key(0) makes") from None


def one_key(key: Any) -> PRNGKeyArray:
    """A key as a typed one; a ValueError for an array of keys, and for anything that is not a key."""
    key = typed_key(key)
    if key.shape:
        raise ValueError(f"key got {list(key.shape)} keys; want one")
    return key


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
    """The input and its key, or None without one."""
    return (x.x, typed_key(x.key)) if isinstance(x, Keyed) else (x, None)


def require_draws(draws: bool, name: str, keys: Any) -> None:
    """Raises a ValueError where keys were given for a model that draws nothing."""
    if keys is not None and not draws:
        raise ValueError(
            f"{name} got keys for a model that draws nothing; want none, or a cell with dropout or zoneout"
        )


def with_stream(model: Any, x: PyTree, key: Keys | None, stream: int) -> PyTree:
    """The input of a cell or layer inside another: x, with a key of a separate stream if it has one and draws."""
    if key is None or not model.keyed:
        return x
    return Keyed(x, map_keys(lambda k: jax.random.fold_in(k, stream), key))


def map_keys(function: Callable, keys: Keys) -> PyTree:
    """``function`` of each key of an array, stacked along the array's axes."""
    for _ in range(keys.ndim):
        function = jax.vmap(function)
    return function(keys)
