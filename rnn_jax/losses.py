"""What a sequence costs: sums over time, mean over the batch; said once, here. In nats."""

import math

import chex
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def next_token_nats(logits: Float[Array, "*shape V"], targets: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """−ln p(target) at every position: the surprise of each letter, in nats."""
    chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def cross_entropy(
    logits: Float[Array, "T *batch V"], targets: Int[Array, "T *batch"], mask: Bool[Array, "T *batch"] | None = None
) -> Float[Array, ""]:
    """L = mean over the batch of Σ_t −ln softmax(y_t)[target_t], in nats; divide by T for nats a letter.

    Where the mask is False, a step costs nothing, whatever lies there.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2), int)).round(4), 3 * jnp.log(4.0).round(4))
    4.1589 4.1589
    """
    if mask is not None:
        chex.assert_equal_shape([mask, targets])
        logits = jnp.where(mask[..., None], logits, 0)  # before the logarithm, so that no gradient becomes NaN
    nats = next_token_nats(logits, targets)
    return jnp.mean(jnp.sum(nats if mask is None else jnp.where(mask, nats, 0), axis=0))


def bits_per_char(nats: float) -> float:
    """Nats a letter as bits a letter."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """The number of equally likely letters that would surprise as much."""
    return math.exp(nats) if nats < 700 else math.inf  # e^709 is the largest float
