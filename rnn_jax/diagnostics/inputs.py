"""Gradients of outputs with respect to inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.diagnostics.states import require_steps


def input_gradients(f: Callable[[Array], Float[Array, " K"]], xs: Float[Array, "T ..."]) -> Float[Array, "K T"]:
    """‖∂f_k/∂x_t‖ for every output f_k of a function of one sequence, and every step: an alignment without attention.

    Args:
        f: the model as a function of one sequence, without batch axes. An example is the log-odds of each character
            that a decoder generates: where a probability is near 0 or 1, its gradient vanishes, that of log-odds not.
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
    return jnp.sqrt(jnp.sum(jnp.square(J), axis=range(2, J.ndim)))
