"""Choices of the next id: the likeliest, or one drawn from a truncated softmax."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from rnn_jax.machinery.checks import in_one_line, is_whole, require_number
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import where
from rnn_jax.types import Keys


def keep_top_k(logits: Float[Array, "*batch V"], k: int) -> Float[Array, "*batch V"]:
    """The k largest logits, and −∞ for the others; of equals, the lowest ids are kept.

    Raises:
        ValueError: for a k outside [1, V].

    >>> keep_top_k(jnp.array([1.0, 3.0, 2.0, 3.0]), 2).tolist()
    [-inf, 3.0, -inf, 3.0]

    Reference: Fan, Lewis, Dauphin. Hierarchical neural story generation. 2018.
    """
    V = logits.shape[-1]
    if not is_whole(k) or not 1 <= k <= V:
        raise ValueError(f"top_k got {in_one_line(k)}; want 1 … {V}, the size of the vocabulary")
    return jnp.where(_rank(logits) < int(k), logits, -jnp.inf)


def keep_nucleus(logits: Float[Array, "*batch V"], p: float) -> Float[Array, "*batch V"]:
    """The smallest set of likeliest ids that has probability p or more, and −∞ for the others.

    Raises:
        ValueError: for a p outside (0, 1].

    >>> keep_nucleus(jnp.log(jnp.array([0.5, 0.2, 0.3])), 0.6).round(2).tolist()
    [-0.69..., -inf, -1.2...]

    Reference: Holtzman, Buys, Du, Forbes, Choi. The curious case of neural text degeneration. 2020.
    """
    require_number("top_p", p, lambda part: 0 < part <= 1, "a probability in (0, 1], which cannot be traced")
    if p == 1:  # rounding would drop the least likely
        return logits
    rank = _rank(logits)
    likeliest_first = -jnp.sort(-jax.nn.softmax(widened(logits), axis=-1), axis=-1)
    before = jnp.cumsum(likeliest_first, axis=-1) - likeliest_first  # probability of all likelier ids
    return jnp.where((jnp.take_along_axis(before, rank, axis=-1) < float(p)) | (rank == 0), logits, -jnp.inf)


def likeliest_ids(_: Array, logits: Float[Array, "*batch V"], *how: Any) -> Integer[Array, "*batch"]:
    """The likeliest ids; of equals, the lowest."""
    return jnp.argmax(logits, axis=-1)


def drawn_ids(
    key: Keys,
    logits: Float[Array, "*batch V"],
    temperature: float | Float[Array, ""],
    top_k: int | None,
    top_p: float | None,
) -> Integer[Array, "*batch"]:
    """Ids drawn from the truncated softmax of ``sample``."""
    logits = widened(logits)
    T = jnp.asarray(temperature).astype(logits.dtype)
    cold = T == 0
    warm = (logits - logits.max(axis=-1, keepdims=True)) / jnp.where(cold, 1, T)  # the likeliest stays finite
    warm = jnp.where(jnp.isneginf(logits), -jnp.inf, warm)
    warm = warm if top_k is None else keep_top_k(warm, top_k)
    warm = warm if top_p is None else keep_nucleus(warm, top_p)
    return where(cold, jnp.argmax(logits, axis=-1), jax.random.categorical(key, warm))


def _rank(logits: Float[Array, "*batch V"]) -> Int[Array, "*batch V"]:
    """The rank of each id, 0 for the likeliest, equals in the order of their ids."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
