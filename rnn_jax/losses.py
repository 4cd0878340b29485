"""What a sequence costs: sums over time, mean over the batch; said once, here. In nats."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from rnn_jax.machinery.checks import is_inside, require_integers
from rnn_jax.machinery.precision import widened
from rnn_jax.machinery.sharding import where

__all__ = ["bits_per_char", "cross_entropy", "next_token_nats", "perplexity"]


def next_token_nats(
    logits: Float[Array, "*shape V"],
    targets: Integer[ArrayLike, "*shape"],
    mask: Bool[ArrayLike, "*shape"] | None = None,
) -> Float[Array, "*shape"]:
    """−ln p(target) at every position: the surprise of each letter, in nats, in float32 or more.

    A target outside [0, V) has no probability: it gives NaN, in value and gradient, wherever it counts.

    Args:
        logits: of the V ids.
        targets: the id that follows, of any integer type.
        mask: where False, a position costs nothing, whatever lies there, and no gradient reaches its logits. A mask
            that is applied after this function comes too late for the gradient.

    Raises:
        ValueError: for logits that are not floating, targets that are no integers, or shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> print(next_token_nats(jnp.zeros((3, 2)), jnp.array([0, 2, -1]), jnp.array([True, True, False])).round(2))
    [0.69  nan 0.  ]
    """
    targets, mask = _array(targets), None if mask is None else _array(mask)
    check_shapes(logits, targets, mask)
    if mask is not None:  # before the logarithm, so that no gradient becomes NaN
        logits, targets = where(jnp.expand_dims(mask, -1), logits, 0), where(mask, targets, 0)
    inside = is_inside(targets, logits.shape[-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(widened(logits), jnp.where(inside, targets, 0))
    nats = nats * jnp.where(inside, 1, jnp.nan).astype(nats.dtype)  # as a factor it reaches the gradient
    return nats if mask is None else where(mask, nats, 0)


def cross_entropy(
    logits: Float[Array, "T *batch V"],
    targets: Integer[ArrayLike, "T *batch"],
    mask: Bool[ArrayLike, "T *batch"] | None = None,
) -> Float[Array, ""]:
    """L = mean over the batch of Σ_t −ln softmax(y_t)[target_t], in nats; divide by T for nats a letter.

    Where the mask is False, a step costs nothing, whatever lies there. A target outside [0, V) that is not masked
    makes the loss NaN. Logits of fewer bits are added up in float32.

    Raises:
        ValueError: as ``next_token_nats``.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2), int)).round(4), 3 * jnp.log(4.0).round(4))
    4.1589 4.1589
    """
    return jnp.mean(jnp.sum(next_token_nats(logits, targets, mask), axis=0))


def _array(given: Any) -> Any:
    """An array of JAX as it is, anything else as one of NumPy's, in which no id is wrapped round to another."""
    return given if isinstance(given, jax.Array) else np.asarray(given)


def check_shapes(logits: Array, targets: Any, mask: Any) -> None:
    """Raises a ValueError unless there is one target, and one mark of the mask, for each vector of logits."""
    *shape, V = logits.shape
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits got {logits.dtype}; want floating ones, the outputs of a model")
    require_integers("targets", targets.dtype, V)
    if targets.shape != tuple(shape):
        raise ValueError(f"targets got shape {targets.shape}; want {tuple(shape)}, one for each of the logits")
    if mask is not None and (mask.dtype != bool or mask.shape != tuple(shape)):
        raise ValueError(f"mask got {mask.dtype} {mask.shape}; want bool {tuple(shape)}, one for each target")


def bits_per_char(nats: float) -> float:
    """Nats a letter as bits a letter."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """The number of equally likely letters that would surprise as much; NaN for NaN."""
    return math.inf if nats >= 700 else math.exp(nats)  # e^709 is the largest float
