"""The Jacobian of one step, of the full state."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from rnn_jax.types import Cell, Params, State


def step_jacobian(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, "S S"]:
    """∂state_t/∂state_{t−1} at one example: row i holds the gradient of entry i of the new state.

    Args:
        cell, params: any cell and its weights.
        h: a state without batch axes; its S numbers are taken in the order of ``ravel_pytree`` (LSTM: c after h).
        x: one input ``(I,)``, or one integer id.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=3, activation="linear")
    >>> params = cell.init(jax.random.key(0))
    >>> J = step_jacobian(cell, params, cell.start(params), jnp.zeros(1))
    >>> bool(jnp.allclose(J, params.W_hh.T))
    True
    """
    flat, unravel = ravel_pytree(h)
    with jax.default_matmul_precision("highest"):  # as in lag_gradients
        return jax.jacrev(lambda s: ravel_pytree(cell.step(params, unravel(s), x))[0])(flat)


def leading_gain(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, ""]:
    """The largest singular value of ∂state_t/∂state_{t−1}: the most by which one step can multiply a gradient.

    Where it stays below a bound that is less than 1 the gradient must vanish; above 1 it may explode.

    Args:
        cell, params, h, x: as in ``step_jacobian``.

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013.
    """
    J = step_jacobian(cell, params, h, x)
    return jnp.linalg.norm(J if jnp.finfo(J.dtype).bits >= 32 else J.astype(jnp.float32), ord=2)
