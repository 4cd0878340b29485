"""Which inputs moved which output."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.diagnostics.states import require_steps

__all__ = ["input_gradients"]


def input_gradients(f: Callable[[Array], Float[Array, " K"]], xs: Float[Array, "T ..."]) -> Float[Array, "K T"]:
    """‖∂f_k/∂x_t‖ for every number f_k of a sequence and each of its steps: an alignment without attention.

    Args:
        f: of one sequence, without batch axes; for example the log-odds of each letter that a decoder writes, which
            unlike their probabilities keep a gradient when the decoder is sure.
        xs: ``(T, I)``; ids as one-hot vectors.

    Raises:
        ValueError: for steps that are ids.

    Example: a linear network that halves its memory at each step.

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
