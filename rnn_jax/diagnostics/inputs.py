"""Influence of each input on each output, by gradients."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from rnn_jax.diagnostics.scaled import norm_of
from rnn_jax.diagnostics.states import require_steps
from rnn_jax.machinery.checks import require_integers

__all__ = ["input_gradients", "log_odds"]


def input_gradients(f: Callable[[Array], Float[Array, " K"]], xs: Float[Array, "T ..."]) -> Float[Array, "K T"]:
    """‖∂f_k/∂x_t‖ for every output f_k of a function of one sequence, and every step: an alignment without attention.

    Args:
        f: of one sequence, without batch axes; for example the ``log_odds`` of each character that a decoder writes.
        xs: ``(T, I)``; ids as one-hot vectors.

    Raises:
        ValueError: for ids.

    Example: a linear network whose state halves at each step.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import rollout, vanilla
    >>> cell = vanilla(input_size=1, hidden_size=1, activation="linear")
    >>> params = cell.init(jax.random.key(0))._replace(W_xh=jnp.ones((1, 1)), W_hh=jnp.full((1, 1), 0.5))
    >>> hs = lambda xs: rollout(cell, params, cell.start(params), xs)[1][:, 0]
    >>> print(input_gradients(hs, jnp.ones((3, 1))))
    [[1.   0.   0.  ]
     [0.5  1.   0.  ]
     [0.25 0.5  1.  ]]

    Reference: Simonyan, Vedaldi, Zisserman. Deep inside convolutional networks: visualising image classification
    models and saliency maps. 2014.
    """
    require_steps(xs)
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ValueError(f"xs got {xs.dtype}; want floating steps: ids as one-hot vectors, jax.nn.one_hot")
    J = jax.jacrev(f)(xs)
    return norm_of(J.reshape(*J.shape[:2], math.prod(J.shape[2:])))


def log_odds(logits: Float[Array, "*shape V"], ids: Integer[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ln p/(1 − p) of each id, where p = softmax(y)[id]: y_id − ln Σ exp(y_i) over all other i.

    For ``input_gradients``: as p comes close to 1, the gradients of p and ln p vanish, and that of the log-odds does
    not.

    Args:
        logits: y, of at least two ids.
        ids: whose odds; without a check that they are in the vocabulary.

    Raises:
        ValueError: for ids that are not integers.

    Odds of 3 to 1, and of 1 to 3.

    >>> import jax.numpy as jnp
    >>> print(jnp.exp(log_odds(jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]])), jnp.array([0, 1]))).round(3))
    [3.    0.333]
    """
    require_integers("ids", ids.dtype, logits.shape[-1])
    chosen = jax.nn.one_hot(ids, logits.shape[-1], dtype=bool)
    return jnp.sum(logits, where=chosen, axis=-1) - jax.nn.logsumexp(logits, where=~chosen, axis=-1)
