"""The Jacobian of one step, with respect to the parts of the state on which later states depend."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rnn_jax.diagnostics.states import layout_of, recurrent_parts
from rnn_jax.machinery.compiling import compiled
from rnn_jax.machinery.precision import widened
from rnn_jax.types import Cell, Params, State

__all__ = ["leading_gain", "step_jacobian"]


@compiled("cell")
def step_jacobian(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, "S S"]:
    """∂state_t/∂state_{t−1} for one example: row i is the gradient of entry i of the new state.

    S counts the numbers in the recurrent parts of the state, those on which later states depend. A part that only the
    output uses, such as the input that ``residual`` adds, is left out: a wrapped cell has the Jacobian of the cell
    inside. A complex number counts as two, its real and its imaginary part.

    Args:
        cell, params: any cell and its weights.
        h: a state without batch axes; its parts are taken in order (LSTM: c after h).
        x: one input ``(I,)``, or one integer id.

    Raises:
        ValueError: for a layer, which has no single steps, or a state that is not floating.

    >>> import jax, jax.numpy as jnp
    >>> from rnn_jax import vanilla
    >>> cell = vanilla(input_size=1, hidden_size=3, activation="linear")
    >>> params = cell.init(jax.random.key(0))
    >>> J = step_jacobian(cell, params, cell.start(params), jnp.zeros(1))
    >>> bool(jnp.allclose(J, params.W_hh.T))
    True
    """
    layout = layout_of(cell, params, h)
    recurrent = np.repeat(recurrent_parts(cell, params, h, x), [part.size for part in layout.split(layout.row(h))])
    with jax.default_matmul_precision("highest"):  # as in lag_gradients
        J = jax.jacrev(lambda row: layout.row(cell.step(params, layout.state(row), x)))(layout.row(h))
    return J[np.ix_(recurrent, recurrent)]


@compiled("cell")
def leading_gain(cell: Cell, params: Params, h: State, x: PyTree) -> Float[Array, ""]:
    """The largest singular value of ∂state_t/∂state_{t−1}: the largest factor by which one step can scale a gradient.

    If it stays below a bound less than 1, the gradient vanishes; above 1 it may explode.

    Args:
        cell, params, h, x: as in ``step_jacobian``.

    Raises:
        ValueError: as ``step_jacobian``.

    Reference: Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks. 2013.
    """
    J = step_jacobian(cell, params, h, x)
    return jnp.linalg.norm(widened(J), ord=2)
